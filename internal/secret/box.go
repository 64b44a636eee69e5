package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeyBytes is the length of a master key.
const KeyBytes = 32

// ErrKey says that none of the box's keys has sealed a ciphertext.
var ErrKey = errors.New("sealed with another secret key; use the key file of the installation that wrote it")

// ErrCorrupt says that a ciphertext was changed, or belongs to another row.
var ErrCorrupt = errors.New("the sealed value is damaged or belongs to something else")

// The layout of a ciphertext: version, key id, nonce, AES-256-GCM output.
const (
	boxVersion = 1
	keyIDBytes = 4
	nonceBytes = 12
	headBytes  = 1 + keyIDBytes + nonceBytes
)

// Box seals and opens with sub-keys of master keys. The first key seals, all of
// them open, so that a key can be changed while both are known. It is immutable
// and may be used by any number of goroutines.
type Box struct{ keys []boxKey }

type boxKey struct {
	id     [keyIDBytes]byte
	master []byte
}

// NewBox makes a box of one or more master keys of KeyBytes bytes.
func NewBox(masters ...[]byte) (*Box, error) {
	if len(masters) == 0 {
		return nil, errors.New("no secret key")
	}
	b := &Box{}
	for _, m := range masters {
		if len(m) != KeyBytes {
			return nil, fmt.Errorf("a secret key has %d bytes, not %d", KeyBytes, len(m))
		}
		id, err := hkdf.Key(sha256.New, m, nil, "sluice key id", keyIDBytes)
		if err != nil {
			return nil, err
		}
		b.keys = append(b.keys, boxKey{id: [keyIDBytes]byte(id), master: append([]byte(nil), m...)})
	}
	return b, nil
}

// Place names where a sealed value stands. A ciphertext that is copied to
// another place does not open.
type Place struct {
	Table  string // chooses the sub-key
	Row    string
	Column string
}

// aad is the associated data; lengths keep ("a", "bc") from ("ab", "c").
func (p Place) aad() []byte {
	b := binary.AppendUvarint(nil, uint64(len(p.Row)))
	b = append(b, p.Row...)
	return append(b, p.Column...)
}

func (k *boxKey) aead(table string) (cipher.AEAD, error) {
	sub, err := hkdf.Key(sha256.New, k.master, nil, "sluice at rest "+table, KeyBytes)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal encrypts plain for a place. Nothing sealed is nothing: nil for an empty plain.
func (b *Box) Seal(p Place, plain []byte) ([]byte, error) {
	if len(plain) == 0 {
		return nil, nil
	}
	k := &b.keys[0]
	aead, err := k.aead(p.Table)
	if err != nil {
		return nil, fmt.Errorf("seal %s %q: %w", p.Table, p.Row, err)
	}
	out := make([]byte, headBytes, headBytes+len(plain)+aead.Overhead())
	out[0] = boxVersion
	copy(out[1:], k.id[:])
	nonce := out[1+keyIDBytes : headBytes]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal %s %q: %w", p.Table, p.Row, err)
	}
	return aead.Seal(out, nonce, plain, p.aad()), nil
}

// Open decrypts what Seal made for the same place. It fails with ErrKey or ErrCorrupt.
func (b *Box) Open(p Place, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	if len(sealed) < headBytes || sealed[0] != boxVersion {
		return nil, fmt.Errorf("open %s %q: %w", p.Table, p.Row, ErrCorrupt)
	}
	for i := range b.keys {
		k := &b.keys[i]
		if [keyIDBytes]byte(sealed[1:1+keyIDBytes]) != k.id {
			continue
		}
		aead, err := k.aead(p.Table)
		if err != nil {
			return nil, fmt.Errorf("open %s %q: %w", p.Table, p.Row, err)
		}
		plain, err := aead.Open(nil, sealed[1+keyIDBytes:headBytes], sealed[headBytes:], p.aad())
		if err != nil {
			return nil, fmt.Errorf("open %s %q: %w", p.Table, p.Row, ErrCorrupt)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("open %s %q: %w", p.Table, p.Row, ErrKey)
}
