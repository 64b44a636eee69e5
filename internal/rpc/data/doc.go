// Package data serves sluice.v1 (publish, consume, session) over gRPC, and the
// same over HTTP with JSON.
//
// It decodes, hands to the engines (publish.Publisher, consume.Consumer) and
// encodes; it judges nothing but the shape of a request. What it promises:
// a result per message in the order of the messages; answers to everything that
// was taken, also while the node drains; never more messages than credits; a
// message that could not be written goes back to its lane unseen.
//
// # Goroutines
//
// A stream has two: a reader, and its handler, which writes. The engines' callbacks
// only queue. A pull that is passed on to other nodes has one per node until
// that node has answered; what comes too late is given back (decisions of
// package docs: federate.go). Service.Close waits for all of them.
//
// # What is not obvious
//
// Answers are built from protos that are used again: gRPC marshals inside Send, so they are
// free when it returns. Requests are never used again: the driver may still write their
// bytes after the caller was answered "maybe sent".
package data
