// Package fault holds the errors that reach a caller: a stable reason, a text
// for people, and whether the operation may have taken effect all the same.
//
// It is a leaf: every package may import it, it imports none. The reasons are
// those of proto/sluice/v1/reason.proto; rpc maps them to status codes.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Reason is the stable code of an error, as it stands in JSON and logs.
type Reason string

// The reasons, in the order of reason.proto, which says what a caller should do about each.
const (
	Internal             Reason = "internal"
	InvalidArgument      Reason = "invalid_argument"
	Unauthenticated      Reason = "unauthenticated"
	PermissionDenied     Reason = "permission_denied"
	TopicNotFound        Reason = "topic_not_found"
	GroupNotFound        Reason = "group_not_found"
	ClusterNotFound      Reason = "cluster_not_found"
	PartitionNotFound    Reason = "partition_not_found"
	AlreadyExists        Reason = "already_exists"
	Conflict             Reason = "conflict"
	SubscriptionConflict Reason = "subscription_conflict"
	MessageTooLarge      Reason = "message_too_large"
	ReservedHeader       Reason = "reserved_header"
	Unsupported          Reason = "unsupported"
	PrecedingFailed      Reason = "preceding_failed"
	SlowDown             Reason = "slow_down"
	GoAway               Reason = "go_away"
	Unavailable          Reason = "unavailable"
	DeadlineExceeded     Reason = "deadline_exceeded"
	DiskFull             Reason = "disk_full"
	TooFewReplicas       Reason = "too_few_replicas"
	NotReplicated        Reason = "not_replicated"
	ReceiptInvalid       Reason = "receipt_invalid"
	LeaseExpired         Reason = "lease_expired"
	Reassigned           Reason = "reassigned"
	AlreadySettled       Reason = "already_settled"
	ClusterAuth          Reason = "cluster_auth"
	IncompatibleGroup    Reason = "incompatible_group"
	ControlUnavailable   Reason = "control_unavailable"
	WrongRole            Reason = "wrong_role"
	Cancelled            Reason = "cancelled"
)

// Error is an error for a caller. It is immutable once made.
type Error struct {
	Reason Reason
	// Text says what, which, why, what to do. It holds no secrets and no message bodies.
	Text string
	// RetryAfter advises when to try again; 0: no advice.
	RetryAfter time.Duration
	// MaybeSent: the operation may have taken effect. Never cleared on the way up.
	MaybeSent bool
	// Cause is for the log; it is not shown to callers.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Text, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Text)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, fault.New(reason, "")) compare reasons alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Text == "" && t.Reason == e.Reason
}

// New makes an error of that reason.
func New(r Reason, format string, args ...any) *Error {
	if len(args) == 0 {
		return &Error{Reason: r, Text: format}
	}
	return &Error{Reason: r, Text: fmt.Sprintf(format, args...)}
}

// Wrap makes an error of that reason with a cause for the log.
func Wrap(cause error, r Reason, format string, args ...any) *Error {
	e := New(r, format, args...)
	e.Cause = cause
	return e
}

// ReasonOf is the reason of err, Internal where it has none, "" for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return Internal
}
