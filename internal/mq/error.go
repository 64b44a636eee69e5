package mq

import (
	"errors"
	"fmt"
)

// Class is what kind of failure an Error is; errors.Is(err, mq.Timeout) asks for it.
type Class int

// The classes. What each means for a produced record that is not MaybeSent: it is certainly not stored.
const (
	Fatal          Class = iota // nothing else fits; a retry will not help
	Conn                        // no connection, or it broke
	Timeout                     // no answer in time
	Busy                        // the broker or the driver asks to slow down
	NotLeader                   // the partition has no leader or moved; a retry will find it
	NotFound                    // no such topic, partition or group
	Auth                        // credentials or rights
	Invalid                     // the request can never succeed as it is
	TooLarge                    // the record is over the broker's limit
	NotDurable                  // stored on the leader with fewer replicas than asked for
	TooFewReplicas              // refused before the append for want of replicas
	Fenced                      // another member or epoch owns this now
	Unsupported                 // this cluster cannot do it
	DiskFull                    // no space
	Closed                      // the driver or the group was closed
	Exists                      // it exists already
)

var classNames = [...]string{
	Fatal: "fatal", Conn: "connection", Timeout: "timeout", Busy: "busy", NotLeader: "not leader", NotFound: "not found",
	Auth: "authorization", Invalid: "invalid", TooLarge: "too large", NotDurable: "not durable", TooFewReplicas: "too few replicas",
	Fenced: "fenced", Unsupported: "unsupported", DiskFull: "disk full", Closed: "closed", Exists: "exists",
}

// Error makes a class an error, so that errors.Is can ask for it.
func (c Class) Error() string {
	if c < 0 || int(c) >= len(classNames) {
		return fmt.Sprintf("class %d", int(c))
	}
	return classNames[c]
}

// Error is what drivers fail with. It unwraps to its Class and to its Cause.
type Error struct {
	Class  Class
	Broker string // which broker said so, where known
	Code   int    // the backend's own code; 0: none
	Msg    string
	// MaybeSent: bytes left for the broker and no answer told what became of them. Never cleared on the way up.
	MaybeSent bool
	Cause     error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Class.Error()
	if e.Broker != "" {
		s = "broker " + e.Broker + ": " + s
	}
	if e.Msg != "" {
		s += ": " + e.Msg
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Cause}
}

// Errorf makes an error of a class that was certainly not sent.
func Errorf(c Class, format string, args ...any) *Error {
	return &Error{Class: c, Msg: fmt.Sprintf(format, args...)}
}

// MaybeSent tells whether err leaves open if the operation took effect.
func MaybeSent(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.MaybeSent
}

// ClassOf is the class of err, Fatal where it has none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	if c, ok := errors.AsType[Class](err); ok {
		return c
	}
	return Fatal
}

// Retriable tells whether the same call may succeed a little later.
func (c Class) Retriable() bool {
	switch c {
	case Conn, Timeout, Busy, NotLeader, TooFewReplicas:
		return true
	default:
		return false
	}
}
