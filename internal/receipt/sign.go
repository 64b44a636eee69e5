package receipt

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// Key is one key of the ring.
type Key struct {
	ID  uint32
	Key []byte
}

// MinKeyBytes is the shortest key that is taken.
const MinKeyBytes = 16

// laneMac signs receipts of one head with a key derived from the ring's key and
// that head, so that a receipt costs two blocks of SHA-256 instead of four. A
// batch mostly has one head.
type laneMac struct {
	ring hash.Hash // with the ring's key
	head []byte    // prefix and head that mac is for
	mac  hash.Hash
	sum  [sha256.Size]byte
}

// sign computes the signature of the tail behind a prefix with its head.
func (m *laneMac) sign(head, tail []byte) []byte {
	if m.mac == nil || !bytes.Equal(head, m.head) {
		m.ring.Reset()
		m.ring.Write(head)
		m.mac = hmac.New(sha256.New, m.ring.Sum(m.sum[:0]))
		m.head = append(m.head[:0], head...)
	}
	m.mac.Reset()
	m.mac.Write(tail)
	return m.mac.Sum(m.sum[:0])[:MacBytes]
}

// Signer makes receipts with one key.
type Signer struct {
	id  uint32
	mac laneMac
}

// NewSigner makes a signer. It fails for a key shorter than MinKeyBytes.
func NewSigner(k Key) (*Signer, error) {
	if len(k.Key) < MinKeyBytes {
		return nil, fmt.Errorf("receipt key %d has %d bytes, at least %d are needed", k.ID, len(k.Key), MinKeyBytes)
	}
	return &Signer{id: k.ID, mac: laneMac{ring: hmac.New(sha256.New, k.Key)}}, nil
}

// KeyID is the id of the key that signs.
func (s *Signer) KeyID() uint32 { return s.id }

// Append signs a receipt and appends it to dst.
func (s *Signer) Append(dst, head []byte, l Lease) []byte {
	from := len(dst)
	dst = append(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, s.id)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(head)))
	dst = append(dst, head...)
	tail := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(l.Offset))
	dst = binary.BigEndian.AppendUint64(dst, l.Serial)
	dst = binary.BigEndian.AppendUint32(dst, l.Attempt)
	dst = binary.BigEndian.AppendUint64(dst, uint64(l.DeadlineMs))
	return append(dst, s.mac.sign(dst[from:tail], dst[tail:])...)
}

// Verifier checks receipts against a ring of keys.
type Verifier struct{ macs map[uint32]*laneMac }

// NewVerifier makes a verifier of all those keys. Keys shorter than MinKeyBytes verify nothing.
func NewVerifier(ring []Key) *Verifier {
	v := &Verifier{macs: make(map[uint32]*laneMac, len(ring))}
	for _, k := range ring {
		if len(k.Key) >= MinKeyBytes {
			v.macs[k.ID] = &laneMac{ring: hmac.New(sha256.New, k.Key)}
		}
	}
	return v
}

// Verify checks a receipt's signature in constant time and gives its head (a
// part of r, not a copy) and its lease. Every failure is an ErrInvalid.
func (v *Verifier) Verify(r []byte) (head []byte, l Lease, err error) {
	id, head, tail, sum, err := split(r)
	if err != nil {
		return nil, Lease{}, err
	}
	mac, ok := v.macs[id]
	if !ok {
		return nil, Lease{}, fmt.Errorf("%w: no key %d in the ring", ErrInvalid, id)
	}
	if !hmac.Equal(sum, mac.sign(r[:prefixBytes+len(head)], tail)) {
		return nil, Lease{}, fmt.Errorf("%w: signature differs", ErrInvalid)
	}
	return head, Lease{
		Offset:     int64(binary.BigEndian.Uint64(tail)),
		Serial:     binary.BigEndian.Uint64(tail[8:]),
		Attempt:    binary.BigEndian.Uint32(tail[16:]),
		DeadlineMs: int64(binary.BigEndian.Uint64(tail[20:])),
	}, nil
}
