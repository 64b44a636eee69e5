// Package rpc owns the listeners of a node: gRPC (data, admin and node
// services on one port) and HTTP (JSON, console, health, metrics), their TLS,
// who may call what, and how an error looks to a caller.
//
// What it promises: no method and no path answers without an entry in the table
// of rights, a caller sees a stable reason and never a stack, a revoked
// credential ends its streams within five seconds, and a certificate that was
// replaced on disk is served within a minute without a restart.
//
// # Life
//
// New validates, loads certificates and listens, so that the addresses are known.
// Register and Handle add services and paths; Start refuses a service that is not
// covered by the table and then serves. GoAway turns readiness off and tells
// streams (Draining, OnGoAway); Stop drains until its context ends, then closes hard.
//
// # Goroutines
//
// One per listener, one that checks live streams and certificates; Stop waits for
// all of them. Stream handlers must end when the context of their stream does.
//
// # Lock order
//
// None: every mutex here guards one map or slice and nothing is called under it.
package rpc
