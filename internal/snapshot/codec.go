package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-mq/sluice/gen/nodev1"
)

// MaxBytes is the largest encoded snapshot that is written, read or sent.
const MaxBytes = 64 << 20

// The frame of a snapshot on disk: magic, format version, length of the
// payload, CRC-32C of everything before and after it, payload (protobuf).
// Fields may be added to the protobuf within a format version; a new format
// version is for what an older node must not read.
const (
	frameMagic   = "SLUICESN"
	frameVersion = 1
	frameHead    = len(frameMagic) + 2 + 4 + 4
)

// ErrCorrupt says that bytes are not a snapshot, or not an undamaged one.
var ErrCorrupt = errors.New("damaged snapshot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode frames a snapshot for the disk.
func Encode(s *Snapshot) ([]byte, error) {
	m := ToProto(s)
	size := proto.Size(m)
	if size > MaxBytes {
		return nil, fmt.Errorf("encode snapshot %d: %d bytes, over the limit of %d; delete topics, groups or tokens that nobody needs", s.Version, size, MaxBytes)
	}
	b := make([]byte, frameHead, frameHead+size)
	copy(b, frameMagic)
	binary.BigEndian.PutUint16(b[8:], frameVersion)
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot %d: %w", s.Version, err)
	}
	binary.BigEndian.PutUint32(b[10:], uint32(len(b)-frameHead)) //nolint:gosec // below MaxBytes
	binary.BigEndian.PutUint32(b[14:], checksum(b))
	return b, nil
}

// Decode reads what Encode made. Bytes that were cut, changed or added fail
// with ErrCorrupt; a newer format version fails with an error that names it.
func Decode(b []byte) (*Snapshot, error) {
	if len(b) < frameHead || string(b[:len(frameMagic)]) != frameMagic {
		return nil, fmt.Errorf("%w: no snapshot file (%d bytes)", ErrCorrupt, len(b))
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != frameVersion {
		return nil, fmt.Errorf("snapshot format %d: this build reads format %d; start the release that wrote it, or remove the file and join the control plane", v, frameVersion)
	}
	if n := int64(binary.BigEndian.Uint32(b[10:])); n > MaxBytes || n != int64(len(b)-frameHead) {
		return nil, fmt.Errorf("%w: %d bytes of payload, the head says %d", ErrCorrupt, len(b)-frameHead, n)
	}
	if got, want := checksum(b), binary.BigEndian.Uint32(b[14:]); got != want {
		return nil, fmt.Errorf("%w: checksum %08x, the head says %08x", ErrCorrupt, got, want)
	}
	m := &nodev1.Snapshot{}
	if err := proto.Unmarshal(b[frameHead:], m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	s, err := FromProto(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return s, nil
}

// checksum covers the frame but for the checksum's own four bytes.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:14], castagnoli), castagnoli, b[frameHead:])
}
