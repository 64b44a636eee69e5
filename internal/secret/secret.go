// Package secret keeps secrets out of sight: Secret hides a value from logs,
// JSON and formatting, Box seals values at rest with the installation's key.
//
// It is a leaf, so that configuration, control plane and drivers may use it.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// hidden is what a set Secret shows.
const hidden = "***"

// Secret is a string that shows itself as *** in every format of fmt, in JSON,
// text, YAML and slog. The zero value is the empty secret, shown as "".
//
// The value stands behind a pointer: fmt does not call methods of unexported
// fields, so that a plain string in a foreign struct would be printed; of a
// pointer only the address is.
type Secret struct{ value *string }

// New hides s.
func New(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{value: &s}
}

// Reveal gives the value. Call it where the value is used, nowhere else.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero tells whether there is nothing to hide.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal compares in constant time for values of equal length.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

// String implements fmt.Stringer; panic uses it too.
func (s Secret) String() string {
	if s.value == nil {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format hides the value from every verb, %x and %p included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) } // fmt keeps write errors itself

// MarshalText hides the value from JSON, YAML and other encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a value, from configuration for example.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = New(string(b))
	return nil
}

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
