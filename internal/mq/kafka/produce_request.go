package kafka

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// maxRequestBytes keeps a request of many partitions far below socket.request.max.bytes (100 MiB).
const maxRequestBytes = 4 << 20

// produceRequest writes the next batch of each of its queues. It implements kmsg.Request, so that a batch
// is formed by AppendTo: in the moment its bytes are about to be written, not when the request was queued. A connection
// that takes seconds to open therefore costs no record its proof that it was not sent.
type produceRequest struct {
	p       *producer
	queues  []*queue
	version int16
	// written is set by the first AppendTo: from then on bytes may have left.
	written atomic.Bool
	taken   []*queue // those with a batch in this request; set by the first AppendTo
}

func (r *produceRequest) Key() int16            { return 0 }
func (r *produceRequest) MaxVersion() int16     { return 12 } // from 13 on topics go by id
func (r *produceRequest) SetVersion(v int16)    { r.version = v }
func (r *produceRequest) GetVersion() int16     { return r.version }
func (r *produceRequest) IsFlexible() bool      { return r.version >= 9 }
func (r *produceRequest) ReadFrom([]byte) error { panic("kafka: a produce request is never read") }
func (r *produceRequest) Timeout() int32        { return int32(r.p.d.cfg.ProduceTimeout.Milliseconds()) }

func (r *produceRequest) ResponseKind() kmsg.Response {
	return &kmsg.ProduceResponse{Version: r.version}
}

// AppendTo is called by kgo's goroutine of the broker, and again if the connection died before the first byte.
func (r *produceRequest) AppendTo(dst []byte) []byte {
	if !r.written.Swap(true) {
		r.take()
	}
	if r.version >= 3 {
		if r.IsFlexible() {
			dst = append(dst, 0) // no transactional id
		} else {
			dst = append(dst, 0xff, 0xff)
		}
	}
	dst = append(dst, 0xff, 0xff) // acks: all in-sync replicas
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Timeout()))
	topics := r.byTopic()
	dst = r.arrayLen(dst, len(topics))
	for _, qs := range topics {
		dst = r.topic(dst, qs)
	}
	if r.IsFlexible() {
		dst = append(dst, 0)
	}
	return dst
}

// take forms the batches. What the request cannot hold any more stays for the next one.
func (r *produceRequest) take() {
	room := maxRequestBytes
	now := r.p.now()
	for _, q := range r.queues {
		if room <= 0 {
			break
		}
		if n := q.form(now, r.version >= 3); n > 0 {
			room -= n
			r.taken = append(r.taken, q)
		}
	}
}

// byTopic groups the taken queues; there are few topics in a request, so no map.
func (r *produceRequest) byTopic() [][]*queue {
	var topics [][]*queue
next:
	for _, q := range r.taken {
		for i := range topics {
			if topics[i][0].id.Topic == q.id.Topic {
				topics[i] = append(topics[i], q)
				continue next
			}
		}
		topics = append(topics, []*queue{q})
	}
	return topics
}

func (r *produceRequest) topic(dst []byte, qs []*queue) []byte {
	name := qs[0].id.Topic
	if r.IsFlexible() {
		dst = binary.AppendUvarint(dst, uint64(len(name)+1))
	} else {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(name)))
	}
	dst = append(dst, name...)
	dst = r.arrayLen(dst, len(qs))
	for _, q := range qs {
		dst = binary.BigEndian.AppendUint32(dst, uint32(q.id.Index))
		dst = r.records(dst, q)
		if r.IsFlexible() {
			dst = append(dst, 0)
		}
	}
	if r.IsFlexible() {
		dst = append(dst, 0)
	}
	return dst
}

func (r *produceRequest) arrayLen(dst []byte, n int) []byte {
	if r.IsFlexible() {
		return binary.AppendUvarint(dst, uint64(n+1))
	}
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// lenBytes is the width of a batch's length in flexible versions: a fixed-width uvarint (high bits padded)
// lets the batch be written in place. Brokers decode uvarints of up to five bytes.
const lenBytes = 5

func (r *produceRequest) records(dst []byte, q *queue) []byte {
	at := len(dst)
	if r.IsFlexible() {
		dst = append(dst, make([]byte, lenBytes)...)
	} else {
		dst = append(dst, 0, 0, 0, 0)
	}
	start := len(dst)
	q.mu.Lock()
	f := q.flight
	q.mu.Unlock()
	// The flight does not change while a request holds its queue, so it is read without the lock.
	dst = r.p.encode(dst, f, r.version)
	n := len(dst) - start
	if !r.IsFlexible() {
		binary.BigEndian.PutUint32(dst[at:], uint32(n))
		return dst
	}
	u := uint64(n + 1)
	for i := range lenBytes {
		dst[at+i] = byte(u) | 0x80
		u >>= 7
	}
	dst[at+lenBytes-1] &^= 0x80
	return dst
}

func (p *producer) encode(dst []byte, f *flight, version int16) []byte {
	if version < 3 {
		return appendMessageSet(dst, f.spans, f.at)
	}
	var flags []kgo.CompressFlag
	if version < 7 {
		flags = append(flags, kgo.CompressDisableZstd)
	}
	return appendBatch(dst, f.spans, f.id, f.at, p.compressor, flags)
}

// flight is a batch that was handed over: from here on only the broker's answer says whether it is stored.
type flight struct {
	spans []span
	count int
	bytes int
	id    ident
	at    time.Time // when it was formed: the timestamp of records without one, and the start of HangTimeout
	// unsure: an attempt ended without an answer that proves it was not appended.
	unsure bool
	tries  int
}

// needsHeaders tells whether a record cannot be written without the record format of 0.11.
func needsHeaders(r *mq.Record) bool { return len(r.Headers) > 0 || r.Tag != "" }
