package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// EnvPrefix begins the names of environment variables that configure a node.
const EnvPrefix = "SLUICE_CFG_"

// OriginDefault is the origin of what nobody set.
const OriginDefault = "default"

// Setting is a value from the command line.
type Setting struct {
	Key, Value string
	Origin     string // such as "flag --grpc"
}

// Source is where a configuration comes from.
type Source struct {
	File    string   // path; empty: none
	Environ []string // as of os.Environ
	Flags   []Setting
}

// Value is one effective value, for people: secrets are hidden.
type Value struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Origin  string `json:"origin"`
	Default string `json:"default"`
}

// Load makes a configuration. The error is a Faults: all that is wrong, at once.
func Load(src Source) (*Config, error) {
	c := Default()
	l := &loader{keys: bind(c)}
	l.byName = make(map[string]*key, len(l.keys))
	for _, k := range l.keys {
		l.byName[k.name] = k
	}
	if src.File != "" {
		l.readFile(src.File)
	}
	l.environ(src.Environ)
	for _, s := range src.Flags {
		l.set(s.Key, []string{s.Value}, s.Origin)
	}
	c.validate(func(name, text string) {
		l.fault(Fault{Key: name, Origin: l.origin(name), Text: text})
	})
	if len(l.faults) > 0 {
		return nil, l.faults
	}
	c.values = show(l.keys)
	return c, nil
}

// Values are the effective values by key, each with where it came from; secrets are hidden.
func (c *Config) Values() []Value { return c.values }

type loader struct {
	keys   []*key
	byName map[string]*key
	faults Faults
}

func (l *loader) fault(f Fault) { l.faults = append(l.faults, f) }

func (l *loader) origin(name string) string {
	if k := l.byName[name]; k != nil {
		return k.origin
	}
	return OriginDefault
}

// set sets a key from elements as written, or records what is wrong.
func (l *loader) set(name string, values []string, origin string) {
	k := l.byName[name]
	if k == nil {
		l.fault(l.unknown(name, origin))
		return
	}
	if err := k.set(values); err != nil {
		shown := fmt.Sprintf("%q", strings.Join(values, ","))
		if k.isSecret {
			shown = "the value"
		}
		l.fault(Fault{Key: name, Origin: origin, Text: shown + " " + err.Error() + "; allowed: " + k.allowed})
		return
	}
	k.origin = origin
}

// environ takes every variable with our prefix; one that is no key is a fault, or a misspelt limit would pass unseen.
func (l *loader) environ(environ []string) {
	byEnv := make(map[string]*key, len(l.keys))
	for _, k := range l.keys {
		byEnv[k.env()] = k
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) {
			continue
		}
		origin := "environment " + name
		if k := byEnv[name]; k != nil {
			l.set(k.name, []string{value}, origin)
			continue
		}
		like := strings.ToLower(strings.TrimPrefix(name, EnvPrefix))
		l.fault(Fault{Origin: origin, Text: "no key has this name" + l.suggest(like) + "; `sluice config reference` lists them"})
	}
}

func (l *loader) unknown(name, origin string) Fault {
	return Fault{Key: name, Origin: origin, Text: "unknown key" + l.suggest(name) + "; `sluice config reference` lists them"}
}

// suggest names the key that is nearest to a misspelt one.
func (l *loader) suggest(name string) string {
	plain := strings.ReplaceAll(name, ".", "_")
	best, distance := "", max(2, len(name)/4)+1
	for _, k := range l.keys {
		if d := editDistance(plain, strings.ReplaceAll(k.name, ".", "_")); d < distance {
			best, distance = k.name, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

func show(keys []*key) []Value {
	vs := make([]Value, 0, len(keys))
	for _, k := range keys {
		v := Value{Key: k.name, Value: k.get(), Origin: k.origin, Default: k.byDefault}
		if k.isSecret && v.Value != "" {
			v.Value = "***"
		}
		vs = append(vs, v)
	}
	slices.SortStableFunc(vs, func(a, b Value) int { return cmp.Compare(section(a.Key), section(b.Key)) })
	return vs
}

// section is "" for keys without a dot, so that these come first.
func section(name string) string {
	s, _, ok := strings.Cut(name, ".")
	if !ok {
		return ""
	}
	return s
}

// editDistance is Levenshtein's, on bytes: names of keys are ASCII.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
