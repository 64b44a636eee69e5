package kafka

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// tagHeader carries mq.Record.Tag.
const tagHeader = "sluice-tag"

// codecs by configuration name; nil is no compression.
var codecs = map[string]func() kgo.CompressionCodec{
	"none": nil, "lz4": kgo.Lz4Compression, "snappy": kgo.SnappyCompression, "zstd": kgo.ZstdCompression, "gzip": kgo.GzipCompression,
}

// Bytes of a record batch (magic 2) before its records, and of a message (magic 1) without key and value.
const (
	batchHead   = 61
	messageHead = 34
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ident is what an idempotent producer writes into a batch; pid -1: not idempotent.
type ident struct {
	pid   int64
	epoch int16
	seq   int32
}

// span is a run of one caller's records in a batch.
type span struct {
	it       *item
	from, to int
}

// recordBytes is about what a record takes in a batch, never less.
func recordBytes(r *mq.Record) int {
	n := len(r.Key) + len(r.Body) + 36
	for i := range r.Headers {
		n += len(r.Headers[i].Name) + len(r.Headers[i].Value) + 10
	}
	if r.Tag != "" {
		n += len(tagHeader) + len(r.Tag) + 10
	}
	return n
}

// appendBatch appends one record batch (magic 2, KIP-98) with all records of the spans.
func appendBatch(dst []byte, spans []span, id ident, now time.Time, comp kgo.Compressor, flags []kgo.CompressFlag) []byte {
	start := len(dst)
	count, first, last := 0, int64(0), int64(0)
	millis := now.UnixMilli()
	for _, s := range spans {
		for i := s.from; i < s.to; i++ {
			ts := timestamp(&s.it.records[i], millis)
			if count == 0 {
				first, last = ts, ts
			}
			last = max(last, ts)
			count++
		}
	}
	dst = append(dst, make([]byte, batchHead)...)
	var attrs int16
	if comp == nil {
		dst = appendRecords(dst, spans, first, millis)
	} else {
		raw := scratch.Get().(*[]byte)
		*raw = appendRecords((*raw)[:0], spans, first, millis)
		buf := compressed.Get().(*bytes.Buffer)
		buf.Reset()
		out, codec := comp.Compress(buf, *raw, flags...)
		attrs = int16(codec)
		dst = append(dst, out...)
		scratch.Put(raw)
		compressed.Put(buf)
	}
	h := dst[start:]
	binary.BigEndian.PutUint32(h[8:], uint32(len(h)-12))
	binary.BigEndian.PutUint32(h[12:], 0xffffffff) // leader epoch: the broker's affair
	h[16] = 2
	binary.BigEndian.PutUint16(h[21:], uint16(attrs))
	binary.BigEndian.PutUint32(h[23:], uint32(count-1))
	binary.BigEndian.PutUint64(h[27:], uint64(first))
	binary.BigEndian.PutUint64(h[35:], uint64(last))
	binary.BigEndian.PutUint64(h[43:], uint64(id.pid))
	binary.BigEndian.PutUint16(h[51:], uint16(id.epoch))
	binary.BigEndian.PutUint32(h[53:], uint32(id.seq))
	binary.BigEndian.PutUint32(h[57:], uint32(count))
	binary.BigEndian.PutUint32(h[17:], crc32.Checksum(h[21:], castagnoli))
	return dst
}

var (
	scratch    = sync.Pool{New: func() any { return new([]byte) }}
	compressed = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

func timestamp(r *mq.Record, now int64) int64 {
	if r.Timestamp.IsZero() {
		return now
	}
	return r.Timestamp.UnixMilli()
}

func appendRecords(dst []byte, spans []span, first, now int64) []byte {
	delta := 0
	for _, s := range spans {
		for i := s.from; i < s.to; i++ {
			dst = appendRecord(dst, &s.it.records[i], timestamp(&s.it.records[i], now)-first, delta)
			delta++
		}
	}
	return dst
}

func appendRecord(dst []byte, r *mq.Record, ts int64, delta int) []byte {
	headers := len(r.Headers)
	n := 1 + varlongLen(ts) + varlongLen(int64(delta)) + bytesLen(r.Key) + bytesLen(r.Body)
	for i := range r.Headers {
		h := &r.Headers[i]
		n += varlongLen(int64(len(h.Name))) + len(h.Name) + bytesLen(h.Value)
	}
	if r.Tag != "" {
		headers++
		n += varlongLen(int64(len(tagHeader))) + len(tagHeader) + varlongLen(int64(len(r.Tag))) + len(r.Tag)
	}
	n += varlongLen(int64(headers))
	dst = binary.AppendVarint(dst, int64(n))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, ts)
	dst = binary.AppendVarint(dst, int64(delta))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Body)
	dst = binary.AppendVarint(dst, int64(headers))
	for i := range r.Headers {
		h := &r.Headers[i]
		dst = binary.AppendVarint(dst, int64(len(h.Name)))
		dst = append(dst, h.Name...)
		dst = appendBytes(dst, h.Value)
	}
	if r.Tag != "" {
		dst = binary.AppendVarint(dst, int64(len(tagHeader)))
		dst = append(dst, tagHeader...)
		dst = binary.AppendVarint(dst, int64(len(r.Tag)))
		dst = append(dst, r.Tag...)
	}
	return dst
}

// Kafka's varints are zigzag, as binary.AppendVarint writes them.
func varlongLen(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}

func bytesLen(b []byte) int {
	if b == nil {
		return 1 // length -1
	}
	return varlongLen(int64(len(b))) + len(b)
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

// appendMessageSet appends the records as messages of magic 1, for brokers of 0.10, uncompressed: the set of
// a compressed message would have to be rewritten by the broker anyway.
func appendMessageSet(dst []byte, spans []span, now time.Time) []byte {
	millis := now.UnixMilli()
	offset := int64(0)
	for _, s := range spans {
		for i := s.from; i < s.to; i++ {
			r := &s.it.records[i]
			start := len(dst)
			dst = binary.BigEndian.AppendUint64(dst, uint64(offset))
			dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // size and crc
			dst = append(dst, 1, 0)                   // magic, attributes
			dst = binary.BigEndian.AppendUint64(dst, uint64(timestamp(r, millis)))
			dst = appendNullable(dst, r.Key)
			dst = appendNullable(dst, r.Body)
			m := dst[start:]
			binary.BigEndian.PutUint32(m[8:], uint32(len(m)-12))
			binary.BigEndian.PutUint32(m[12:], crc32.ChecksumIEEE(m[16:]))
			offset++
		}
	}
	return dst
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 0xff, 0xff, 0xff, 0xff)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(b)))
	return append(dst, b...)
}
