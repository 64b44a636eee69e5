package publish

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
)

// Message is one message to publish, as the engine knows it. A nil Key is no key, a nil Body a null body.
type Message struct {
	ID        string // may be empty: the engine makes one
	Key       []byte
	Body      []byte
	Headers   []Header
	Tag       string
	Sequence  uint64 // 0: none
	Partition string // "": by key, or spread
}

// Header is one header.
type Header struct {
	Name  string
	Value []byte
}

// Status is what became of a message.
type Status int

// The states, as in publish.proto.
const (
	Stored Status = iota + 1
	StoredNotReplicated
	NotSent
	MaybeSent
	Refused
)

// String is the state as it stands in JSON and in metrics.
func (s Status) String() string {
	switch s {
	case Stored:
		return "stored"
	case StoredNotReplicated:
		return "stored_not_replicated"
	case NotSent:
		return "not_sent"
	case MaybeSent:
		return "maybe_sent"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Request is a batch for one topic. The engine keeps the messages' bytes (and
// may still read them after done, where a write runs on): never change them.
type Request struct {
	Topic    string
	Producer string
	Messages []Message
	Timeout  time.Duration // 0: 10 s; at most 60 s
	// AnyDurability: STORED_NOT_REPLICATED is good enough and carries no error.
	AnyDurability bool
	// Lane of the stream, nil for a unary call; see Stream.
	Stream *Stream
}

// Result belongs to the message at the same index.
type Result struct {
	Status Status
	// ID is the message's id, made by the engine where the message had none. On a cluster without headers, where
	// no id can be stored, it is "cluster/topic/partition/offset" of what was stored.
	ID        string
	Cluster   string
	Partition string
	Offset    int64 // meaningful where the status is one of the stored ones
	// Err is nil for Stored, and for StoredNotReplicated with AnyDurability.
	Err *fault.Error
}

// Publisher is what rpc/data needs of the engine.
type Publisher interface {
	// Publish judges every message and calls done exactly once with one result per message, in order, from
	// any goroutine: done must not block. It returns once the batch is handed to the drivers, in the order of
	// the calls of one Stream, so that a stream can read its next frame.
	Publish(ctx context.Context, who auth.Who, req *Request, done func([]Result))
	// NewStream makes the state that orders a stream's batches (keys that failed).
	NewStream() *Stream
}

var _ Publisher = (*Engine)(nil)

// Publish implements Publisher. ctx's deadline bounds the request where it is
// sooner than the Timeout; its cancellation ends waiting and retries, never a
// write in flight.
func (e *Engine) Publish(ctx context.Context, who auth.Who, req *Request, done func([]Result)) {
	b := e.newBatch(ctx, req, done)
	if !b.admit(who) {
		return
	}
	if !b.route(ctx) {
		return
	}
	if !b.admitMessages() {
		return
	}
	b.place()
	b.send()
}
