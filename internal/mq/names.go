package mq

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// MaxTopicName is the longest topic name that Kafka takes, in bytes.
const MaxTopicName = 249

// hashChars is how much of the SHA-256 ends a name that was too long: 64 bits.
const hashChars = 16

// RetryTopic is the physical topic that holds parked messages of a group.
func RetryTopic(group string) Topic { return PhysicalName(group, ".retry") }

// DeadLetterTopic is the physical topic that holds the dead letters of a group.
func DeadLetterTopic(group string) Topic { return PhysicalName(group, ".dlq") }

// PhysicalName makes a topic name that every cluster takes out of any name and
// a suffix of legal bytes. Legal are a-z, A-Z, 0-9, '.', '-' and '_'; another
// byte becomes _xHH, and so does a '_' that stands before an 'x', so that two
// names never share one. A result over MaxTopicName is cut and ends in a hash of
// the whole name, before the suffix.
func PhysicalName(name, suffix string) Topic {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(name) + len(suffix))
	for i := range len(name) {
		c := name[i]
		escape := !legalInTopic(c) || c == '_' && i+1 < len(name) && name[i+1] == 'x'
		if !escape {
			b.WriteByte(c)
			continue
		}
		b.WriteString("_x")
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	escaped := b.String()
	if len(escaped)+len(suffix) <= MaxTopicName {
		return Topic(escaped + suffix)
	}
	sum := sha256.Sum256([]byte(name))
	keep := MaxTopicName - len(suffix) - hashChars - 1
	return Topic(escaped[:keep] + "-" + hex.EncodeToString(sum[:])[:hashChars] + suffix)
}

func legalInTopic(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}
