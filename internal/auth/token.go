package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
)

// The kinds of tokens. A token's kind stands in its text, so that people and
// secret scanners recognise it; what counts is the kind in the snapshot.
const (
	KindApp   = "app"
	KindAdmin = "admin"
	KindNode  = "node"
	// KindSetup is the one-time secret of the set-up link; it is no credential.
	KindSetup = "setup"
)

// A token is slc_<kind>_<256 random bits><CRC-32 of all before it>, both parts
// in base62 of fixed length. The checksum lets scanners and people tell a token
// from a typing error without asking anybody.
const (
	tokenPrefix   = "slc_"
	randomChars   = 43 // 62^43 > 2^256
	checksumChars = 6  // 62^6 > 2^32
	alphabet      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// errToken never says more: the text may stand next to a secret in a log.
var errToken = errors.New("no token of Sluice: it starts with slc_, then the kind, and ends in a checksum; copy it whole")

// NewToken makes a token of a kind.
func NewToken(kind string) (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	head := tokenPrefix + kind + "_" + base62(new(big.Int).SetBytes(b[:]), randomChars)
	return head + checksum(head), nil
}

// TokenKind checks a token's form and gives the kind that its text claims.
func TokenKind(token string) (string, error) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	kind, body, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(body) != randomChars+checksumChars {
		return "", errToken
	}
	switch kind {
	case KindApp, KindAdmin, KindNode, KindSetup:
	default:
		return "", errToken
	}
	head := token[:len(token)-checksumChars]
	if checksum(head) != token[len(head):] || strings.Trim(body, alphabet) != "" {
		return "", errToken
	}
	return kind, nil
}

// Hash is what is stored of a token. A fast hash will do: 256 random bits cannot be guessed.
func Hash(token string) [32]byte { return sha256.Sum256([]byte(token)) }

func checksum(head string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(head)))), checksumChars)
}

// base62 writes n with exactly so many digits.
func base62(n *big.Int, digits int) string {
	out := make([]byte, digits)
	base, rest := big.NewInt(int64(len(alphabet))), new(big.Int)
	for i := digits - 1; i >= 0; i-- {
		n, rest = new(big.Int).DivMod(n, base, rest)
		out[i] = alphabet[rest.Int64()]
	}
	return string(out)
}
