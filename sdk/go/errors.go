package sluice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Reason is the stable code of an error, the same in every language and over HTTP. It is an error itself, so that
// errors.Is(err, sluice.ReasonSlowDown) tells what happened.
type Reason string

// The reasons. What to do about each stands in proto/sluice/v1/reason.proto.
const (
	ReasonInternal             Reason = "internal"
	ReasonInvalidArgument      Reason = "invalid_argument"
	ReasonUnauthenticated      Reason = "unauthenticated"
	ReasonPermissionDenied     Reason = "permission_denied"
	ReasonTopicNotFound        Reason = "topic_not_found"
	ReasonGroupNotFound        Reason = "group_not_found"
	ReasonClusterNotFound      Reason = "cluster_not_found"
	ReasonPartitionNotFound    Reason = "partition_not_found"
	ReasonAlreadyExists        Reason = "already_exists"
	ReasonConflict             Reason = "conflict"
	ReasonSubscriptionConflict Reason = "subscription_conflict"
	ReasonMessageTooLarge      Reason = "message_too_large"
	ReasonReservedHeader       Reason = "reserved_header"
	ReasonUnsupported          Reason = "unsupported"
	ReasonPrecedingFailed      Reason = "preceding_failed"
	ReasonSlowDown             Reason = "slow_down"
	ReasonGoAway               Reason = "go_away"
	ReasonUnavailable          Reason = "unavailable"
	ReasonDeadlineExceeded     Reason = "deadline_exceeded"
	ReasonDiskFull             Reason = "disk_full"
	ReasonTooFewReplicas       Reason = "too_few_replicas"
	ReasonNotReplicated        Reason = "not_replicated"
	ReasonReceiptInvalid       Reason = "receipt_invalid"
	ReasonLeaseExpired         Reason = "lease_expired"
	ReasonReassigned           Reason = "reassigned"
	ReasonAlreadySettled       Reason = "already_settled"
	ReasonClusterAuth          Reason = "cluster_auth"
	ReasonIncompatibleGroup    Reason = "incompatible_group"
	ReasonControlUnavailable   Reason = "control_unavailable"
	ReasonWrongRole            Reason = "wrong_role"
	ReasonCancelled            Reason = "cancelled"
)

// Error implements error.
func (r Reason) Error() string { return strings.ReplaceAll(string(r), "_", " ") }

// Error is what Sluice, or this client, says went wrong.
type Error struct {
	// Reason is what a program acts on.
	Reason Reason
	// Message is for people: what, which, why, what to do.
	Message string
	// RetryAfter advises when to try again; 0: no advice.
	RetryAfter time.Duration
	// MaybeSent: the operation may have taken effect in spite of the error.
	MaybeSent bool
	// Status of the message where the error belongs to one, else 0.
	Status Status
	// Cause is what lies behind it, nil where nothing does.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

// Unwrap gives the reason and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Reason, e.Cause}
	}
	return []error{e.Reason}
}

// Refused reports whether a publish failed because the message cannot be stored as it is: do not send it again unchanged.
func Refused(err error) bool { return statusOf(err) == StatusRefused }

// NotSent reports whether a publish failed without reaching a broker: sending it again cannot repeat it.
func NotSent(err error) bool { return statusOf(err) == StatusNotSent }

// MaybeSent reports whether an operation failed, but may have taken effect: sending the message again may repeat it.
// Keep its id, so that the repeat is recognised.
func MaybeSent(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.MaybeSent || e.Status == StatusMaybeSent)
}

func statusOf(err error) Status {
	var e *Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Status
}

func failure(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

var reasons = func() map[sluicev1.Reason]Reason {
	m := make(map[sluicev1.Reason]Reason, len(sluicev1.Reason_name))
	for n, name := range sluicev1.Reason_name {
		m[sluicev1.Reason(n)] = Reason(strings.ToLower(strings.TrimPrefix(name, "REASON_")))
	}
	m[sluicev1.Reason_REASON_UNSPECIFIED] = ReasonInternal
	return m
}()

// fromProto is the error behind its wire form, nil for nil. A reason of a newer release counts as internal.
func fromProto(p *sluicev1.Error) *Error {
	if p == nil {
		return nil
	}
	r, ok := reasons[p.GetReason()]
	if !ok {
		r = ReasonInternal
	}
	return &Error{
		Reason: r, Message: p.GetMessage(), MaybeSent: p.GetMaybeSent(),
		RetryAfter: time.Duration(p.GetRetryAfterMs()) * time.Millisecond,
	}
}

// callReasons says what gRPC's own codes mean where no node gave a reason.
var callReasons = map[codes.Code]Reason{
	codes.Canceled: ReasonCancelled, codes.InvalidArgument: ReasonInvalidArgument,
	codes.DeadlineExceeded: ReasonDeadlineExceeded, codes.PermissionDenied: ReasonPermissionDenied,
	codes.ResourceExhausted: ReasonSlowDown, codes.Unauthenticated: ReasonUnauthenticated,
	codes.Unavailable: ReasonUnavailable, codes.Unimplemented: ReasonUnsupported,
}

// fromCall turns the error of a call to a node into an *Error; nil stays nil.
func fromCall(node string, err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Reason: ReasonCancelled, Message: "the call to " + node + " was cancelled", Cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Reason: ReasonDeadlineExceeded, Message: "node " + node + " did not answer in time", Cause: err}
	}
	st, ok := status.FromError(err)
	if !ok {
		return &Error{Reason: ReasonUnavailable, Message: "the connection to " + node + " was lost", Cause: err}
	}
	for _, d := range st.Details() {
		if p, ok := d.(*sluicev1.Error); ok {
			return fromProto(p)
		}
	}
	r, ok := callReasons[st.Code()]
	if !ok {
		r = ReasonInternal
	}
	return failure(r, "node %s: %s", node, st.Message())
}

// hopeless: no other node and no later time would answer differently.
func hopeless(e *Error) bool {
	switch e.Reason {
	case ReasonUnauthenticated, ReasonPermissionDenied, ReasonInvalidArgument, ReasonTopicNotFound, ReasonGroupNotFound,
		ReasonSubscriptionConflict, ReasonIncompatibleGroup, ReasonUnsupported, ReasonClusterAuth:
		return true
	default:
		return false
	}
}
