package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// A batch's value: a header of fixed size, then the records one after the other. Pebble checks the bytes of its files
// and log by checksums, so there is none here.
//
//	version(1) count(4) appended(8) maxTime(8) sum(8)
//	record: flags(1) timestamp-appended(varint) [key] [body] [tag] [headers(uvarint) {name, 1+len(value) or 0, value}]
//
// appended, maxTime and sum never fall from one batch of a partition to the next, which makes them searchable.
const (
	codecVersion = 1
	headerLen    = 1 + 4 + 3*8
)

// Bits of a record's flags: which of its parts are there.
const (
	hasKey = 1 << iota
	hasBody
	hasTag
	hasHeaders
)

// header is what can be known of a batch without reading its records.
type header struct {
	count    int
	appended int64 // wall time of the append, ms; not before that of the batch before
	maxTime  int64 // the newest timestamp up to and with this batch, ms
	sum      int64 // bytes of the partition up to and with this batch, from its beginning
}

var errCodec = errors.New("not a batch of this version")

func appendHeader(dst []byte, h header) []byte {
	dst = append(dst, codecVersion)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.count))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.appended))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.maxTime))
	return binary.BigEndian.AppendUint64(dst, uint64(h.sum))
}

func decodeHeader(value []byte) (header, error) {
	if len(value) < headerLen || value[0] != codecVersion {
		return header{}, errCodec
	}
	h := header{
		count:    int(binary.BigEndian.Uint32(value[1:])),
		appended: int64(binary.BigEndian.Uint64(value[5:])),
		maxTime:  int64(binary.BigEndian.Uint64(value[13:])),
		sum:      int64(binary.BigEndian.Uint64(value[21:])),
	}
	if h.count == 0 || h.count > len(value)/2 { // a record takes two bytes at least
		return header{}, fmt.Errorf("%d records in %d bytes: %w", h.count, len(value), errCodec)
	}
	return h, nil
}

// appendRecord encodes a record whose timestamp is at (ms), in a batch appended at appended.
func appendRecord(dst []byte, r *mq.Record, at, appended int64) []byte {
	var flags byte
	if r.Key != nil {
		flags |= hasKey
	}
	if r.Body != nil {
		flags |= hasBody
	}
	if r.Tag != "" {
		flags |= hasTag
	}
	if len(r.Headers) > 0 {
		flags |= hasHeaders
	}
	dst = append(dst, flags)
	dst = binary.AppendVarint(dst, at-appended)
	if r.Key != nil {
		dst = appendBytes(dst, r.Key)
	}
	if r.Body != nil {
		dst = appendBytes(dst, r.Body)
	}
	if r.Tag != "" {
		dst = append(binary.AppendUvarint(dst, uint64(len(r.Tag))), r.Tag...)
	}
	if len(r.Headers) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Headers)))
		for i := range r.Headers {
			h := &r.Headers[i]
			dst = append(binary.AppendUvarint(dst, uint64(len(h.Name))), h.Name...)
			if h.Value == nil {
				dst = append(dst, 0)
				continue
			}
			dst = binary.AppendUvarint(dst, uint64(len(h.Value))+1)
			dst = append(dst, h.Value...)
		}
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// decoder reads records out of a batch's value; what it returns aliases the value.
type decoder struct {
	rest     []byte
	appended int64
}

// next decodes one record, without its offset.
func (d *decoder) next() (mq.Record, error) {
	var r mq.Record
	if len(d.rest) == 0 {
		return r, errCodec
	}
	flags := d.rest[0]
	d.rest = d.rest[1:]
	delta, n := binary.Varint(d.rest)
	if n <= 0 {
		return r, errCodec
	}
	d.rest = d.rest[n:]
	r.Timestamp = time.UnixMilli(d.appended + delta)
	ok := true
	take := func(bit byte) []byte {
		if !ok || flags&bit == 0 {
			return nil
		}
		var b []byte
		b, ok = d.bytes(d.length())
		return b
	}
	r.Key, r.Body = take(hasKey), take(hasBody)
	r.Tag = string(take(hasTag))
	if !ok || flags&hasHeaders == 0 {
		return r, okay(ok)
	}
	count := d.length()
	if count < 1 || count > int64(len(d.rest)/2) { // a header takes two bytes at least
		return r, errCodec
	}
	r.Headers = make([]mq.Header, count)
	for i := range r.Headers {
		name, ok := d.bytes(d.length())
		if !ok {
			return r, errCodec
		}
		r.Headers[i].Name = string(name)
		if n := d.length(); n != 0 {
			if r.Headers[i].Value, ok = d.bytes(n - 1); !ok {
				return r, errCodec
			}
		}
	}
	return r, nil
}

func okay(ok bool) error {
	if ok {
		return nil
	}
	return errCodec
}

// length reads a length; -1: there is none that could be.
func (d *decoder) length() int64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest))+1 {
		return -1
	}
	d.rest = d.rest[n:]
	return int64(v)
}

func (d *decoder) bytes(n int64) ([]byte, bool) {
	if n < 0 || n > int64(len(d.rest)) {
		return nil, false
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b, true
}

// skip passes over n records.
func (d *decoder) skip(n int64) error {
	for ; n > 0; n-- {
		if _, err := d.next(); err != nil {
			return err
		}
	}
	return nil
}

// mark is what is known of a partition beside its batches; it outlives them, so that offsets never go back.
type mark struct {
	start int64 // the first offset there is
	low   int64 // header.sum in front of the first batch there is
	end   int64 // the next offset
	header
}

const markLen = 1 + 3*8 + 3*8

func encodeMark(m mark) []byte {
	dst := []byte{codecVersion}
	for _, v := range []int64{m.start, m.low, m.end, m.appended, m.maxTime, m.sum} {
		dst = binary.BigEndian.AppendUint64(dst, uint64(v))
	}
	return dst
}

func decodeMark(value []byte) (mark, error) {
	if len(value) != markLen || value[0] != codecVersion {
		return mark{}, fmt.Errorf("partition mark of %d bytes: %w", len(value), errCodec)
	}
	var m mark
	for i, v := range []*int64{&m.start, &m.low, &m.end, &m.appended, &m.maxTime, &m.sum} {
		*v = int64(binary.BigEndian.Uint64(value[1+8*i:]))
	}
	return m, nil
}
