package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Code is how a reason looks on the wire.
type Code struct {
	Proto sluicev1.Reason
	GRPC  codes.Code
	HTTP  int
}

// table is the only place where reasons become status codes.
var table = map[fault.Reason]Code{
	fault.Internal:             {sluicev1.Reason_REASON_INTERNAL, codes.Internal, http.StatusInternalServerError},
	fault.InvalidArgument:      {sluicev1.Reason_REASON_INVALID_ARGUMENT, codes.InvalidArgument, http.StatusBadRequest},
	fault.Unauthenticated:      {sluicev1.Reason_REASON_UNAUTHENTICATED, codes.Unauthenticated, http.StatusUnauthorized},
	fault.PermissionDenied:     {sluicev1.Reason_REASON_PERMISSION_DENIED, codes.PermissionDenied, http.StatusForbidden},
	fault.TopicNotFound:        {sluicev1.Reason_REASON_TOPIC_NOT_FOUND, codes.NotFound, http.StatusNotFound},
	fault.GroupNotFound:        {sluicev1.Reason_REASON_GROUP_NOT_FOUND, codes.NotFound, http.StatusNotFound},
	fault.ClusterNotFound:      {sluicev1.Reason_REASON_CLUSTER_NOT_FOUND, codes.NotFound, http.StatusNotFound},
	fault.PartitionNotFound:    {sluicev1.Reason_REASON_PARTITION_NOT_FOUND, codes.NotFound, http.StatusNotFound},
	fault.AlreadyExists:        {sluicev1.Reason_REASON_ALREADY_EXISTS, codes.AlreadyExists, http.StatusConflict},
	fault.Conflict:             {sluicev1.Reason_REASON_CONFLICT, codes.Aborted, http.StatusConflict},
	fault.SubscriptionConflict: {sluicev1.Reason_REASON_SUBSCRIPTION_CONFLICT, codes.FailedPrecondition, http.StatusConflict},
	// Not ResourceExhausted, which retry libraries take for "later".
	fault.MessageTooLarge: {sluicev1.Reason_REASON_MESSAGE_TOO_LARGE, codes.InvalidArgument, http.StatusRequestEntityTooLarge},
	fault.ReservedHeader:  {sluicev1.Reason_REASON_RESERVED_HEADER, codes.InvalidArgument, http.StatusBadRequest},
	// Not Unimplemented, which clients take for "no such method".
	fault.Unsupported:      {sluicev1.Reason_REASON_UNSUPPORTED, codes.FailedPrecondition, http.StatusUnprocessableEntity},
	fault.PrecedingFailed:  {sluicev1.Reason_REASON_PRECEDING_FAILED, codes.Aborted, http.StatusConflict},
	fault.SlowDown:         {sluicev1.Reason_REASON_SLOW_DOWN, codes.ResourceExhausted, http.StatusTooManyRequests},
	fault.GoAway:           {sluicev1.Reason_REASON_GO_AWAY, codes.Unavailable, http.StatusServiceUnavailable},
	fault.Unavailable:      {sluicev1.Reason_REASON_UNAVAILABLE, codes.Unavailable, http.StatusServiceUnavailable},
	fault.DeadlineExceeded: {sluicev1.Reason_REASON_DEADLINE_EXCEEDED, codes.DeadlineExceeded, http.StatusGatewayTimeout},
	fault.DiskFull:         {sluicev1.Reason_REASON_DISK_FULL, codes.ResourceExhausted, http.StatusServiceUnavailable},
	fault.TooFewReplicas:   {sluicev1.Reason_REASON_TOO_FEW_REPLICAS, codes.Unavailable, http.StatusServiceUnavailable},
	// Not Unavailable, which retry libraries repeat: it is stored on the leader.
	fault.NotReplicated:      {sluicev1.Reason_REASON_NOT_REPLICATED, codes.Aborted, http.StatusServiceUnavailable},
	fault.ReceiptInvalid:     {sluicev1.Reason_REASON_RECEIPT_INVALID, codes.InvalidArgument, http.StatusBadRequest},
	fault.LeaseExpired:       {sluicev1.Reason_REASON_LEASE_EXPIRED, codes.FailedPrecondition, http.StatusConflict},
	fault.Reassigned:         {sluicev1.Reason_REASON_REASSIGNED, codes.FailedPrecondition, http.StatusConflict},
	fault.AlreadySettled:     {sluicev1.Reason_REASON_ALREADY_SETTLED, codes.FailedPrecondition, http.StatusConflict},
	fault.ClusterAuth:        {sluicev1.Reason_REASON_CLUSTER_AUTH, codes.FailedPrecondition, http.StatusBadGateway},
	fault.IncompatibleGroup:  {sluicev1.Reason_REASON_INCOMPATIBLE_GROUP, codes.FailedPrecondition, http.StatusConflict},
	fault.ControlUnavailable: {sluicev1.Reason_REASON_CONTROL_UNAVAILABLE, codes.Unavailable, http.StatusServiceUnavailable},
	fault.WrongRole:          {sluicev1.Reason_REASON_WRONG_ROLE, codes.FailedPrecondition, http.StatusMisdirectedRequest},
	// 499 is nginx's; nobody is left to read it.
	fault.Cancelled: {sluicev1.Reason_REASON_CANCELLED, codes.Canceled, 499},
}

// reasons is table the other way round.
var reasons = func() map[sluicev1.Reason]fault.Reason {
	m := make(map[sluicev1.Reason]fault.Reason, len(table)+1)
	for r, c := range table {
		m[c.Proto] = r
	}
	m[sluicev1.Reason_REASON_UNSPECIFIED] = fault.Internal
	return m
}()

// CodeOf is how a reason looks on the wire; a reason that is not in the table counts as internal.
func CodeOf(r fault.Reason) Code {
	if c, ok := table[r]; ok {
		return c
	}
	return table[fault.Internal]
}

// classes says what a driver's failure means for a caller where no engine said it better.
var classes = map[mq.Class]fault.Reason{
	mq.Fatal: fault.Internal, mq.Conn: fault.Unavailable, mq.Timeout: fault.DeadlineExceeded, mq.Busy: fault.SlowDown,
	mq.NotLeader: fault.Unavailable, mq.NotFound: fault.TopicNotFound, mq.Auth: fault.ClusterAuth, mq.Invalid: fault.InvalidArgument,
	mq.TooLarge: fault.MessageTooLarge, mq.NotDurable: fault.NotReplicated, mq.TooFewReplicas: fault.TooFewReplicas,
	mq.Fenced: fault.Reassigned, mq.Unsupported: fault.Unsupported, mq.DiskFull: fault.DiskFull, mq.Closed: fault.Unavailable,
	mq.Exists: fault.AlreadyExists,
}

// Faults turns errors into what callers see. What is unknown, or internal, gets an id that stands in
// the text and in the log. It may be used from many goroutines.
type Faults struct {
	log     *slog.Logger
	metrics *metrics
}

// Fault is the caller's form of err, nil for nil.
func (f *Faults) Fault(err error) *fault.Error {
	if err == nil {
		return nil
	}
	if fe, ok := errors.AsType[*fault.Error](err); ok {
		if fe.Reason != fault.Internal {
			return fe
		}
		return f.internal(fe, fe.MaybeSent)
	}
	if me, ok := errors.AsType[*mq.Error](err); ok {
		r, ok := classes[me.Class]
		if !ok || r == fault.Internal {
			return f.internal(err, me.MaybeSent)
		}
		return &fault.Error{Reason: r, Text: me.Error(), MaybeSent: me.MaybeSent, Cause: err}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fault.New(fault.MessageTooLarge, "the request is larger than %d bytes; send less at once", tooLarge.Limit)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(err, fault.DeadlineExceeded, "the call's deadline passed")
	case errors.Is(err, context.Canceled):
		return fault.Wrap(err, fault.Cancelled, "the caller cancelled the call")
	}
	return f.internal(err, mq.MaybeSent(err))
}

// internal hides err behind an id.
func (f *Faults) internal(err error, maybeSent bool) *fault.Error {
	id := newID()
	f.log.Error("internal error", "error_id", id, "err", err)
	f.metrics.internalErrors.Inc()
	return &fault.Error{
		Reason:    fault.Internal,
		Text:      "internal error " + id + "; give this id to the operator, who finds the cause in the node's log",
		MaybeSent: maybeSent,
		Cause:     err,
	}
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process rather than return an error
	return hex.EncodeToString(b[:])
}

// Proto is the wire form of err for a result or a frame, nil for nil.
func (f *Faults) Proto(err error) *sluicev1.Error {
	return ToProto(f.Fault(err))
}

// Status is the error that a gRPC handler returns: a code with a sluicev1.Error as its detail. Statuses that
// gRPC made itself (unknown method, message too large) pass as they are.
func (f *Faults) Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
			return err
		}
	}
	e := f.Fault(err)
	st := status.New(CodeOf(e.Reason).GRPC, e.Text)
	if withDetail, err := st.WithDetails(ToProto(e)); err == nil {
		st = withDetail
	}
	return st.Err()
}

// ToProto is the wire form of e, nil for nil.
func ToProto(e *fault.Error) *sluicev1.Error {
	if e == nil {
		return nil
	}
	return &sluicev1.Error{
		Reason: CodeOf(e.Reason).Proto, Message: e.Text, RetryAfterMs: milliseconds(e.RetryAfter), MaybeSent: e.MaybeSent,
	}
}

// FromProto is the error behind its wire form, nil for nil. A reason of a newer release counts as internal.
func FromProto(p *sluicev1.Error) *fault.Error {
	if p == nil {
		return nil
	}
	r, ok := reasons[p.GetReason()]
	if !ok {
		r = fault.Internal
	}
	return &fault.Error{
		Reason: r, Text: p.GetMessage(), RetryAfter: time.Duration(p.GetRetryAfterMs()) * time.Millisecond, MaybeSent: p.GetMaybeSent(),
	}
}

// FromStatus is the error that another node answered a call with, nil for nil. Without a detail the code decides;
// a broken connection is Unavailable with MaybeSent, since nobody knows how far the call came.
func FromStatus(err error) *fault.Error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return fault.Wrap(err, fault.Internal, "%v", err)
	}
	for _, d := range st.Details() {
		if p, ok := d.(*sluicev1.Error); ok {
			return FromProto(p)
		}
	}
	e := fault.Wrap(err, fault.Internal, "%s", st.Message())
	switch st.Code() {
	case codes.Unavailable:
		e.Reason, e.MaybeSent = fault.Unavailable, true
	case codes.DeadlineExceeded:
		e.Reason, e.MaybeSent = fault.DeadlineExceeded, true
	case codes.Canceled:
		e.Reason, e.MaybeSent = fault.Cancelled, true
	case codes.Unauthenticated:
		e.Reason = fault.Unauthenticated
	case codes.PermissionDenied:
		e.Reason = fault.PermissionDenied
	case codes.InvalidArgument, codes.OutOfRange:
		e.Reason = fault.InvalidArgument
	case codes.ResourceExhausted:
		e.Reason = fault.SlowDown
	case codes.Unimplemented:
		e.Reason = fault.Unsupported
	default: // internal: the peer's own trouble
	}
	return e
}

// milliseconds rounds up, so that advice to wait never becomes "no advice".
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// panicError is what a recovered panic becomes.
func panicError(what string, v any, stack []byte) error {
	return fmt.Errorf("panic in %s: %v\n%s", what, v, stack)
}
