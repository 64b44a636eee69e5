package config

import "strings"

// Fault is one thing wrong in a configuration.
type Fault struct {
	Key    string // empty where there is none, as for a file that cannot be read
	Origin string // "sluice.yaml:12", "flag --grpc", "environment SLUICE_CFG_GRPC", "default"
	Text   string // what is wrong and what is allowed
}

// Error is one line: where, which key, what, what is allowed.
func (f Fault) Error() string {
	s := "config " + f.Origin + ": "
	if f.Key != "" {
		s += f.Key + ": "
	}
	return s + f.Text
}

// Faults are all things wrong in a configuration.
type Faults []Fault

// Error has a line per fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the faults one by one.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}
