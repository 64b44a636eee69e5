// Package ackmap encodes which messages beyond a committed offset are done
// already, for the metadata of an offset commit.
//
// The text is "s1." and base64 (raw, URL alphabet) of
//
//	flags 1 | CRC-32C 4 | hash of the topic id 8 | bits
//
// Bit i of the bits stands for the message at offset + 1 + i (the one at the
// committed offset itself is not done by definition); zeros at the end are left
// out. The CRC covers the committed offset too, so that a map that somebody
// carried to another offset is void. What is not ours, is damaged, or belongs
// to a topic that was made anew, is no map: losing one costs repeats only,
// believing a wrong one would lose messages.
//
// 24,000 bits take 4,020 characters, less than the 4,096 that Kafka's brokers
// take by default (offset.metadata.max.bytes). The package is pure.
package ackmap

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

const (
	magic       = "s1."
	headerBytes = 1 + 4 + 8
	// MaxWindow is how many offsets from the committed one on a map can speak of.
	MaxWindow = 24_000
)

// flagClean says that the owner handed the partition over in order.
const flagClean = 1

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	encoding   = base64.RawURLEncoding
)

// Map is a decoded map. The zero value says nothing is done beyond the offset.
type Map struct {
	// Words holds the bits, bit i of word i/64 for offset + 1 + i.
	Words []uint64
	// Clean: the owner stopped, waited for its leases and handed over.
	Clean bool
}

// Done tells whether the message that far beyond the committed offset (1: the next one) is done.
func (m *Map) Done(distance int64) bool {
	i := distance - 1
	return i >= 0 && i < int64(len(m.Words))*64 && m.Words[i/64]>>(i%64)&1 == 1
}

// Window is how many offsets fit in a commit with that much room for metadata,
// at most MaxWindow. With no room at all there are no maps, and the window is MaxWindow.
func Window(metadataBytes int) int {
	if metadataBytes <= 0 {
		return MaxWindow
	}
	room := encoding.DecodedLen(max(0, metadataBytes-len(magic))) - headerBytes
	return max(1, min(MaxWindow, room*8+1))
}

// Encode makes the text of a map; "" where nothing is set. topicID may be empty.
func Encode(topicID string, offset int64, m Map) string {
	words := m.Words
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	if len(words) == 0 && !m.Clean {
		return ""
	}
	n := 0
	if len(words) > 0 {
		n = (len(words)-1)*8 + (bits.Len64(words[len(words)-1])+7)/8
	}
	raw := make([]byte, headerBytes, headerBytes+len(words)*8)
	for _, w := range words {
		raw = binary.LittleEndian.AppendUint64(raw, w)
	}
	raw = raw[:headerBytes+n]
	if m.Clean {
		raw[0] = flagClean
	}
	binary.BigEndian.PutUint64(raw[5:], xxhash.Sum64String(topicID))
	binary.BigEndian.PutUint32(raw[1:], checksum(raw, offset))
	out := make([]byte, len(magic)+encoding.EncodedLen(len(raw)))
	copy(out, magic)
	encoding.Encode(out[len(magic):], raw)
	return string(out)
}

// Decode reads the text of a commit at offset. It answers false for what is no
// map of that topic at that offset, the empty text included.
func Decode(text, topicID string, offset int64) (Map, bool) {
	if len(text) <= len(magic) || text[:len(magic)] != magic || len(text) > len(magic)+encoding.EncodedLen(headerBytes+MaxWindow/8) {
		return Map{}, false
	}
	raw, err := encoding.Strict().DecodeString(text[len(magic):])
	if err != nil || len(raw) < headerBytes || raw[0]&^flagClean != 0 {
		return Map{}, false
	}
	if binary.BigEndian.Uint64(raw[5:]) != xxhash.Sum64String(topicID) || binary.BigEndian.Uint32(raw[1:]) != checksum(raw, offset) {
		return Map{}, false
	}
	m := Map{Clean: raw[0]&flagClean != 0}
	if body := raw[headerBytes:]; len(body) > 0 {
		m.Words = make([]uint64, (len(body)+7)/8)
		for i, b := range body {
			m.Words[i/8] |= uint64(b) << (i % 8 * 8)
		}
	}
	return m, true
}

// checksum covers everything but itself, and the offset.
func checksum(raw []byte, offset int64) uint32 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(offset))
	sum := crc32.Update(0, castagnoli, at[:])
	sum = crc32.Update(sum, castagnoli, raw[:1])
	return crc32.Update(sum, castagnoli, raw[5:])
}
