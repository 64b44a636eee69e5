// Package publish is the producer proxy's engine: admit, route, place, send, settle.
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

// Request is a batch for one topic.
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
	Status    Status
	ID        string
	Cluster   string
	Partition string
	Offset    int64
	Err       *fault.Error
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

// Stream orders the batches of one publish stream; the helper of the engine replaces this.
type Stream struct{}
