package config

import "fmt"

// Changed lists the keys that differ between two configurations: those that a running node takes over, and
// those that wait for its next start.
func Changed(old, now *Config) (live, restart []string) {
	before := make(map[string]string)
	for _, k := range bind(old) {
		before[k.name] = k.get()
	}
	for _, k := range bind(now) {
		if before[k.name] == k.get() {
			continue
		}
		if k.reloads {
			live = append(live, k.name)
		} else {
			restart = append(restart, k.name)
		}
	}
	return live, restart
}

// String never shows the values: a Config holds secrets, and this is what %v prints.
func (c *Config) String() string { return fmt.Sprintf("config of %d keys", len(c.values)) }

// GoString is what %#v prints.
func (c *Config) GoString() string { return c.String() }
