// Package config makes one Config out of flags, environment, file and defaults.
//
// Flags win over the environment (SLUICE_CFG_...), that over the file (YAML),
// that over the defaults; every value knows where it came from. All faults are
// reported at once, each with its place, its key and what is allowed there: an
// unknown key, a wrong type or a value out of range is never passed over.
//
// The table in keys.go is the only list of keys: file, environment, `--set`,
// `config show`, `config reference` and docs/reference/config.md follow it.
// Configuration is what a node needs to start. What may change while it runs
// arrives in the snapshot; the few keys that SIGHUP re-reads are marked.
package config
