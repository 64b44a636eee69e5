package embedded

import (
	"encoding/binary"

	"github.com/sluice-mq/sluice/internal/mq"
)

// The keys, by first byte. Integers are big-endian, so that keys sort as their numbers do.
//
//	B topic-id(8) partition(4) base offset(8)   a batch of records
//	G len(2) group topic-id(8) partition(4)     a group's position: offset(8) and ack map
//	I                                           how often the store was opened
//	P topic-id(8) partition(4)                  what is known of a partition beside its batches (mark)
//	T topic name                                a topic (JSON of topicMeta)
//	U                                           the last topic id given out
const (
	batchPrefix     = 'B'
	groupPrefix     = 'G'
	openedKey       = 'I'
	partitionPrefix = 'P'
	topicPrefix     = 'T'
	lastTopicKey    = 'U'
)

const batchKeyLen = 1 + 8 + 4 + 8

func batchKey(dst []byte, topic uint64, partition int32, base int64) []byte {
	dst = append(dst, batchPrefix)
	dst = binary.BigEndian.AppendUint64(dst, topic)
	dst = binary.BigEndian.AppendUint32(dst, uint32(partition))
	return binary.BigEndian.AppendUint64(dst, uint64(base))
}

// baseOf is the base offset in a batch's key.
func baseOf(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[len(key)-8:])) }

func partitionKey(topic uint64, partition int32) []byte {
	key := binary.BigEndian.AppendUint64([]byte{partitionPrefix}, topic)
	return binary.BigEndian.AppendUint32(key, uint32(partition))
}

func topicKey(name mq.Topic) []byte { return append([]byte{topicPrefix}, name...) }

// groupKey is the prefix of a group's positions.
func groupKey(group string) []byte {
	key := binary.BigEndian.AppendUint16([]byte{groupPrefix}, uint16(len(group)))
	return append(key, group...)
}

func positionKey(group string, topic uint64, partition int32) []byte {
	key := binary.BigEndian.AppendUint64(groupKey(group), topic)
	return binary.BigEndian.AppendUint32(key, uint32(partition))
}

// splitPosition takes a position's key apart; false: it is none.
func splitPosition(key []byte) (group string, topic uint64, partition int32, ok bool) {
	if len(key) < 3 || key[0] != groupPrefix {
		return "", 0, 0, false
	}
	n := int(binary.BigEndian.Uint16(key[1:]))
	if len(key) != 3+n+12 {
		return "", 0, 0, false
	}
	rest := key[3+n:]
	return string(key[3 : 3+n]), binary.BigEndian.Uint64(rest), int32(binary.BigEndian.Uint32(rest[8:])), true
}

// after is the first key behind all keys with that prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

func encodePosition(c mq.Commit) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(c.Offset)), c.Map...)
}

func decodePosition(value []byte) (mq.Commit, bool) {
	if len(value) < 8 {
		return mq.Commit{}, false
	}
	return mq.Commit{Offset: int64(binary.BigEndian.Uint64(value)), Map: string(value[8:])}, true
}
