package rpc

import (
	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
)

// Right is what a method or path asks of its caller. The zero value grants nobody anything, so that a
// forgotten entry cannot open a door.
type Right int

// The rights.
const (
	_ Right = iota
	// Public needs no credential.
	Public
	// Authenticated is any valid credential.
	Authenticated
	// Produce and Consume are for apps and administrators; which topics and groups is the engines' business.
	Produce
	Consume
	// Admin is for administrators.
	Admin
	// Node is for neighbours: it speaks for apps that the neighbour has authenticated.
	Node
	// Join is for neighbours and for administrators, who may bring a new node.
	Join
)

var rightNames = map[Right]string{
	Public: "public", Authenticated: "authenticated", Produce: "produce", Consume: "consume", Admin: "admin", Node: "node", Join: "join",
}

// String is the right's name.
func (r Right) String() string {
	if n, ok := rightNames[r]; ok {
		return n
	}
	return "none"
}

// allows tells whether an authenticated caller has the right. Anonymous callers exist only with --dev on the
// loopback, where they may do everything.
func (r Right) allows(who auth.Who) bool {
	switch r {
	case Public, Authenticated:
		return true
	case Produce, Consume:
		return who.App != "" || who.Admin || who.Anonymous
	case Admin:
		return who.Admin || who.Anonymous
	case Node:
		return who.Node != "" || who.Anonymous
	case Join:
		return who.Node != "" || who.Admin || who.Anonymous
	default:
		return false
	}
}

var errDenied = fault.New(fault.PermissionDenied, "this credential does not allow the call; use one that does, or ask an administrator for a grant")

// errUnauthenticated is the one answer to a missing, unknown, revoked or expired credential.
var errUnauthenticated = fault.New(fault.Unauthenticated, "no valid credential; send `authorization: Bearer TOKEN` with a token that is neither revoked nor expired")
