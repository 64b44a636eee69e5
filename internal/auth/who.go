// Package auth answers who calls and what they may do, from the snapshot alone.
package auth

// Who is an authenticated caller.
type Who struct {
	App   string // "" for an administrator's token and for anonymous work in --dev
	Admin bool
	// Anonymous: allowed by --dev on the loopback.
	Anonymous bool
	// Node: a neighbour or a node that joins.
	Node string
}
