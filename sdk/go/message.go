package sluice

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// maxMessageBytes is what no topic takes more of; smaller limits of a topic are the node's to judge.
const maxMessageBytes = 4 << 20

// Message is one message to publish. The client reads Key, Body and the headers until the message's result is there:
// leave them alone until then.
type Message struct {
	// ID identifies the message through every retry; empty: the client makes a UUIDv7. 1 to 128 printable characters.
	ID string
	// Key orders and places: messages with one key stay in order. Nil is no key, empty a key like any other.
	Key []byte
	// Body nil is a null body, which compacted topics take as a deletion; empty is an empty body.
	Body []byte
	// Headers are sent sorted by name.
	Headers Headers
	// HeaderList follows Headers, in order; names may repeat.
	HeaderList []Header
	Tag        string
	// Partition asks for a partition ("3"; RocketMQ: "broker-1/3"); empty: placed by key, or spread.
	Partition string
}

// Headers are headers by name. Values may hold any bytes.
type Headers map[string]string

// Header is one header.
type Header struct {
	Name  string
	Value []byte
}

// Status is what became of a message.
type Status int

// The states of a published message.
const (
	// StatusStored: the broker acknowledged it with all replicas it asks for.
	StatusStored Status = iota + 1
	// StatusStoredNotReplicated: in the leader's log, with fewer replicas than asked for, or not yet flushed.
	StatusStoredNotReplicated
	// StatusNotSent: it certainly did not reach a broker.
	StatusNotSent
	// StatusMaybeSent: it may be stored.
	StatusMaybeSent
	// StatusRefused: it cannot be stored as it is.
	StatusRefused
)

// String is the status as it stands in JSON.
func (s Status) String() string {
	switch s {
	case StatusStored:
		return "stored"
	case StatusStoredNotReplicated:
		return "stored_not_replicated"
	case StatusNotSent:
		return "not_sent"
	case StatusMaybeSent:
		return "maybe_sent"
	case StatusRefused:
		return "refused"
	default:
		return fmt.Sprintf("status(%d)", int(s))
	}
}

// Result is what became of one message. Every message handed to a publisher gets exactly one.
type Result struct {
	ID     string
	Status Status
	// Cluster, Partition and Offset say where it was stored; they are empty where it was not.
	Cluster   string
	Partition string
	Offset    int64
	// Err is nil where the message is stored as the publisher's Durability asks, else an *Error whose Status is that
	// of the result.
	Err error
}

// Durability says what a publisher takes for stored.
type Durability int

const (
	// Replicated takes only what as many replicas have as the topic asks for. The default.
	Replicated Durability = iota
	// Any takes what the leader alone has too; such results carry StatusStoredNotReplicated and no error.
	Any
)

// check finds what could not even be put on the wire, so that one bad message cannot break a stream for its neighbours.
func (m *Message) check() *Error {
	bad := ""
	switch {
	case len(m.ID) > 128:
		return failure(ReasonInvalidArgument, "the message id has %d characters; at most 128 are allowed", len(m.ID))
	case !utf8.ValidString(m.ID):
		bad = "id"
	case !utf8.ValidString(m.Tag):
		bad = "tag"
	case !utf8.ValidString(m.Partition):
		bad = "partition"
	}
	for name := range m.Headers {
		if !utf8.ValidString(name) {
			bad = "name of a header"
		}
	}
	for i := range m.HeaderList {
		if !utf8.ValidString(m.HeaderList[i].Name) {
			bad = "name of a header"
		}
	}
	if bad != "" {
		return failure(ReasonInvalidArgument, "the message's %s is not valid UTF-8; send bytes in the body or in a header's value", bad)
	}
	if n := m.size(); n > maxMessageBytes {
		return failure(ReasonMessageTooLarge, "the message has %d bytes with key and headers; at most %d are allowed", n, maxMessageBytes)
	}
	return nil
}

// size is about what the message takes in memory and on the wire.
func (m *Message) size() int {
	n := len(m.Key) + len(m.Body) + len(m.Tag) + len(m.Partition)
	for name, v := range m.Headers {
		n += len(name) + len(v)
	}
	for i := range m.HeaderList {
		n += len(m.HeaderList[i].Name) + len(m.HeaderList[i].Value)
	}
	return n
}

// fill writes the wire form into w.
func (m *Message) fill(w *sluicev1.Message, inject func(set func(name, value string))) {
	w.Id, w.Key, w.Body, w.Tag, w.Partition = m.ID, m.Key, m.Body, m.Tag, m.Partition
	if n := len(m.Headers) + len(m.HeaderList); n > 0 {
		w.Headers = make([]*sluicev1.Header, 0, n)
	}
	for name, v := range m.Headers {
		w.Headers = append(w.Headers, &sluicev1.Header{Name: name, Value: []byte(v)})
	}
	if len(w.Headers) > 1 {
		slices.SortFunc(w.Headers, func(a, b *sluicev1.Header) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
	}
	for i := range m.HeaderList {
		w.Headers = append(w.Headers, &sluicev1.Header{Name: m.HeaderList[i].Name, Value: m.HeaderList[i].Value})
	}
	if inject != nil {
		inject(func(name, value string) {
			w.Headers = append(w.Headers, &sluicev1.Header{Name: name, Value: []byte(value)})
		})
	}
}

// Delivery is a leased message. It must be settled before its lease ends: by the handler's result, or by Accept,
// Release or Reject. Its methods may be called from any goroutine.
type Delivery struct {
	// ID is the publisher's; for messages without one "cluster/topic/partition/offset".
	ID      string
	Key     []byte // nil: none
	Body    []byte // nil: a null body
	Headers []Header
	Tag     string
	Topic   string
	Cluster string
	// Partition is "3"; of RocketMQ "broker-1/3".
	Partition string
	Offset    int64
	// Attempt is 1 for the first delivery.
	Attempt     int
	PublishedAt time.Time
	// Deadline is when the lease ended by the node's clock when the message came; renewing moves it on.
	Deadline time.Time
	// Run is what this message is ordered after: deliveries of one receiver with the same non-zero Run have to be
	// worked on one after the other, in the order they came. Receive does that by itself.
	Run uint64

	lease *lease
}

// Header is the first value of a header; false where there is none of that name.
func (d *Delivery) Header(name string) ([]byte, bool) {
	for i := range d.Headers {
		if d.Headers[i].Name == name {
			return d.Headers[i].Value, true
		}
	}
	return nil, false
}
