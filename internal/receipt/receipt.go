// Package receipt makes and checks the receipts of leased messages: what a
// client shows to settle a message, at any node.
//
// A receipt names group, app, cluster, topic, partition, owner node and
// ownership epoch, and of the one lease its offset, serial, attempt and
// deadline; all of it is signed with HMAC-SHA256 by a key of the ring (the lane's
// part by way of a derived key). The
// deadline is information: the owner's lease table decides. The serial tells
// the leases of one offset in one epoch apart, so that a receipt from before a
// return never settles the lease after it.
//
// The package is pure. A Signer belongs to one goroutine; so does a Verifier.
package receipt

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// version is the first byte. Another one is refused: receipts live for hours at most.
const version = 1

// MacBytes is how much of the HMAC a receipt carries: 128 bits.
const MacBytes = 16

// fixed sizes of the layout:
//
//	version 1 | key id 4 | length of head 2 | head | offset 8 | serial 8 | attempt 4 | deadline 8 | mac 16
//	head: epoch 8 | partition 4 | owner node, group, app, cluster, topic, broker (each length 2 + bytes)
//
// All receipts of one lane for one app share the head, so that whoever settles
// a batch compares bytes instead of decoding it again.
const (
	prefixBytes = 1 + 4 + 2
	tailBytes   = 8 + 8 + 4 + 8
	// MaxBytes is the longest receipt that is looked at.
	MaxBytes = 4096
)

// ErrInvalid is what every receipt fails with that is not one of ours as it was
// made; the text behind it is for the log.
var ErrInvalid = errors.New("receipt is not valid")

// Scope is what the receipts of one lane for one app have in common.
type Scope struct {
	Epoch     int64
	Partition int32
	Node      string // the owner
	Group     string
	App       string
	Cluster   string
	Topic     string // physical
	Broker    string
}

// Lease is what a receipt says of its one lease.
type Lease struct {
	Offset     int64
	Serial     uint64
	Attempt    uint32
	DeadlineMs int64 // milliseconds since 1970, as it was when the message was leased
}

// Head encodes a scope. It fails where a name is over 65,535 bytes or all are too long together.
func (s *Scope) Head() ([]byte, error) {
	names := [...]string{s.Node, s.Group, s.App, s.Cluster, s.Topic, s.Broker}
	n := 12
	for _, name := range names {
		n += 2 + len(name)
	}
	if prefixBytes+n+tailBytes+MacBytes > MaxBytes {
		return nil, fmt.Errorf("receipt of group %.64q, topic %.64q: names take %d bytes, at most %d fit",
			s.Group, s.Topic, n, MaxBytes-prefixBytes-tailBytes-MacBytes)
	}
	b := make([]byte, 0, n)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Epoch))
	b = binary.BigEndian.AppendUint32(b, uint32(s.Partition))
	for _, name := range names {
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
	}
	return b, nil
}

// ParseHead decodes a scope.
func ParseHead(head []byte) (Scope, error) {
	var s Scope
	if len(head) < 12 {
		return s, fmt.Errorf("%w: head of %d bytes", ErrInvalid, len(head))
	}
	s.Epoch = int64(binary.BigEndian.Uint64(head))
	s.Partition = int32(binary.BigEndian.Uint32(head[8:]))
	rest := head[12:]
	for _, name := range [...]*string{&s.Node, &s.Group, &s.App, &s.Cluster, &s.Topic, &s.Broker} {
		if len(rest) < 2 {
			return Scope{}, fmt.Errorf("%w: head ends early", ErrInvalid)
		}
		n := int(binary.BigEndian.Uint16(rest))
		if len(rest) < 2+n {
			return Scope{}, fmt.Errorf("%w: head ends early", ErrInvalid)
		}
		*name = string(rest[2 : 2+n])
		rest = rest[2+n:]
	}
	if len(rest) != 0 {
		return Scope{}, fmt.Errorf("%w: %d bytes too many", ErrInvalid, len(rest))
	}
	return s, nil
}

// Size is how long a receipt with that head is.
func Size(head []byte) int { return prefixBytes + len(head) + tailBytes + MacBytes }

// split cuts a receipt into its parts without copying. It checks lengths only.
func split(r []byte) (keyID uint32, head, tail, mac []byte, err error) {
	if len(r) > MaxBytes || len(r) < prefixBytes+tailBytes+MacBytes {
		return 0, nil, nil, nil, fmt.Errorf("%w: %d bytes", ErrInvalid, len(r))
	}
	if r[0] != version {
		return 0, nil, nil, nil, fmt.Errorf("%w: version %d", ErrInvalid, r[0])
	}
	n := int(binary.BigEndian.Uint16(r[5:]))
	if len(r) != prefixBytes+n+tailBytes+MacBytes {
		return 0, nil, nil, nil, fmt.Errorf("%w: %d bytes", ErrInvalid, len(r))
	}
	return binary.BigEndian.Uint32(r[1:]), r[prefixBytes : prefixBytes+n], r[prefixBytes+n : len(r)-MacBytes], r[len(r)-MacBytes:], nil
}
