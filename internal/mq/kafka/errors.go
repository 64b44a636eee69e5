package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// classes of Kafka's error codes. What is missing is Fatal.
var classes = map[int16]mq.Class{
	-1:  mq.Busy, // UNKNOWN_SERVER_ERROR: brokers say so for about 2 s after they were paused
	1:   mq.Invalid,
	2:   mq.Invalid, // CORRUPT_MESSAGE
	3:   mq.NotFound,
	4:   mq.Invalid,
	5:   mq.NotLeader,
	6:   mq.NotLeader,
	7:   mq.Timeout,
	8:   mq.Conn,
	9:   mq.NotLeader,
	10:  mq.TooLarge,
	11:  mq.NotLeader,
	12:  mq.TooLarge, // OFFSET_METADATA_TOO_LARGE
	13:  mq.Conn,
	14:  mq.Busy,
	15:  mq.Busy,
	16:  mq.NotLeader, // NOT_COORDINATOR
	17:  mq.Invalid,
	18:  mq.TooLarge, // RECORD_LIST_TOO_LARGE
	19:  mq.TooFewReplicas,
	20:  mq.NotDurable,
	21:  mq.Invalid,
	22:  mq.Fenced,
	23:  mq.Invalid, // INCONSISTENT_GROUP_PROTOCOL
	24:  mq.Invalid,
	25:  mq.Fenced,
	26:  mq.Invalid,
	27:  mq.Busy, // REBALANCE_IN_PROGRESS
	28:  mq.TooLarge,
	29:  mq.Auth,
	30:  mq.Auth,
	31:  mq.Auth,
	32:  mq.Invalid,
	33:  mq.Auth,
	34:  mq.Auth,
	35:  mq.Unsupported,
	36:  mq.Exists,
	37:  mq.Invalid,
	38:  mq.Invalid,
	39:  mq.Invalid,
	40:  mq.Invalid,
	41:  mq.NotLeader,
	42:  mq.Invalid,
	43:  mq.Unsupported,
	44:  mq.Invalid,
	45:  mq.Fatal, // sequence errors are dealt with before
	47:  mq.Fenced,
	53:  mq.Auth,
	54:  mq.Unsupported,
	56:  mq.DiskFull, // KAFKA_STORAGE_ERROR: the log directory is offline, a full disk as a rule
	57:  mq.DiskFull,
	58:  mq.Auth,
	60:  mq.Busy,
	68:  mq.Busy, // NON_EMPTY_GROUP: members have to leave first
	69:  mq.NotFound,
	73:  mq.Unsupported,
	74:  mq.NotLeader,
	75:  mq.NotLeader,
	76:  mq.Unsupported,
	78:  mq.NotLeader,
	81:  mq.Busy,
	82:  mq.Fenced,
	83:  mq.NotLeader,
	87:  mq.Invalid,
	88:  mq.Busy,
	89:  mq.Busy,
	90:  mq.Fenced,
	100: mq.NotFound, 103: mq.NotFound,
	110: mq.Fenced, 112: mq.Invalid, 113: mq.Fenced,
}

// codeError makes an error of a broker's answer; code must not be 0.
func codeError(code int16, broker string, msg *string) *mq.Error {
	e := &mq.Error{Class: mq.Fatal, Broker: broker, Code: int(code)}
	if c, ok := classes[code]; ok {
		e.Class = c
	}
	if ke, ok := errors.AsType[*kerr.Error](kerr.ErrorForCode(code)); ok {
		e.Msg = ke.Message
	} else {
		e.Msg = "code " + strconv.Itoa(int(code))
	}
	if msg != nil && *msg != "" {
		e.Msg += ": " + *msg
	}
	return e
}

// transportError classes what a request failed with when no broker answered it. Where the request may have
// changed something, the caller sets MaybeSent.
func transportError(err error) *mq.Error {
	if e, ok := errors.AsType[*mq.Error](err); ok {
		return e
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		return codeError(ke.Code, "", nil)
	}
	e := &mq.Error{Class: mq.Conn, Cause: err}
	var netErr net.Error
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		e.Class, e.Cause, e.Msg = mq.Closed, nil, "the driver was closed"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.Class = mq.Timeout
	case strings.Contains(err.Error(), "broker is too old"):
		e.Class, e.Cause, e.Msg = mq.Unsupported, nil, "the cluster is too old for this request"
	case errors.As(err, &netErr) && netErr.Timeout():
		e.Class = mq.Timeout
	case strings.Contains(err.Error(), "SASL") || strings.Contains(err.Error(), "sasl"):
		e.Class = mq.Auth
	}
	return e
}

// notKafka tells whether err looks like the answer of something that does not speak Kafka's protocol.
func notKafka(err error) bool {
	if _, ok := errors.AsType[*kgo.ErrFirstReadEOF](err); ok {
		return true
	}
	s := err.Error()
	return errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(s, "invalid large response size") ||
		strings.Contains(s, "negative response") || strings.Contains(s, "correlation ID") || strings.Contains(s, "invalid response size")
}

// dialFailed tells whether there was no connection at all.
func dialFailed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func unsupported(what string) *mq.Error {
	return mq.Errorf(mq.Unsupported, "this cluster is too old for %s", what)
}

func wrapf(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}
