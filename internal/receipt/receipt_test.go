package receipt

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	oldKey = Key{ID: 1, Key: bytes.Repeat([]byte{1}, 32)}
	newKey = Key{ID: 2, Key: bytes.Repeat([]byte{2}, 32)}
)

func testScope() Scope {
	return Scope{Epoch: 7, Partition: 3, Node: "n1", Group: "billing", App: "app", Cluster: "kafka-a", Topic: "orders", Broker: ""}
}

func mustHead(t testing.TB, s Scope) []byte {
	t.Helper()
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	return head
}

func mustSigner(t testing.TB, k Key) *Signer {
	t.Helper()
	s, err := NewSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReceiptRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		str := rapid.StringN(0, 80, 249)
		s := Scope{
			Epoch: rapid.Int64().Draw(t, "epoch"), Partition: rapid.Int32().Draw(t, "partition"),
			Node: str.Draw(t, "node"), Group: str.Draw(t, "group"), App: str.Draw(t, "app"),
			Cluster: str.Draw(t, "cluster"), Topic: str.Draw(t, "topic"), Broker: str.Draw(t, "broker"),
		}
		l := Lease{
			Offset: rapid.Int64().Draw(t, "offset"), Serial: rapid.Uint64().Draw(t, "serial"),
			Attempt: rapid.Uint32().Draw(t, "attempt"), DeadlineMs: rapid.Int64().Draw(t, "deadline"),
		}
		head, err := s.Head()
		if err != nil {
			t.Fatal(err)
		}
		signer, err := NewSigner(newKey)
		if err != nil {
			t.Fatal(err)
		}
		r := signer.Append(nil, head, l)
		if len(r) != Size(head) {
			t.Fatalf("%d bytes, Size says %d", len(r), Size(head))
		}
		gotHead, gotLease, err := NewVerifier([]Key{newKey, oldKey}).Verify(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseHead(gotHead)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got) + cmp.Diff(l, gotLease); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestReceiptRefusesEveryFlippedBit(t *testing.T) {
	t.Parallel()
	r := mustSigner(t, newKey).Append(nil, mustHead(t, testScope()), Lease{Offset: 5, Serial: 9, Attempt: 1, DeadlineMs: 1000})
	v := NewVerifier([]Key{newKey, oldKey})
	for i := range len(r) * 8 {
		r[i/8] ^= 1 << (i % 8)
		if _, _, err := v.Verify(r); !errors.Is(err, ErrInvalid) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
		r[i/8] ^= 1 << (i % 8)
	}
	if _, _, err := v.Verify(r); err != nil {
		t.Fatal(err)
	}
}

func TestReceiptOutlivesARotation(t *testing.T) {
	t.Parallel()
	r := mustSigner(t, oldKey).Append(nil, mustHead(t, testScope()), Lease{})
	if _, _, err := NewVerifier([]Key{newKey, oldKey}).Verify(r); err != nil {
		t.Errorf("with the old key in the ring: %v", err)
	}
	if _, _, err := NewVerifier([]Key{newKey}).Verify(r); !errors.Is(err, ErrInvalid) {
		t.Errorf("without it: %v", err)
	}
}

func TestReceiptLimits(t *testing.T) {
	t.Parallel()
	s := testScope()
	s.Group = strings.Repeat("g", MaxBytes)
	if _, err := s.Head(); err == nil {
		t.Error("a head over the limit was made")
	}
	if _, err := NewSigner(Key{Key: []byte("short")}); err == nil {
		t.Error("a short key was taken")
	}
	if _, _, err := NewVerifier([]Key{{ID: 1}}).Verify(make([]byte, 100)); !errors.Is(err, ErrInvalid) {
		t.Errorf("empty key: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	signer := mustSigner(f, newKey)
	good := signer.Append(nil, mustHead(f, testScope()), Lease{Offset: 1})
	f.Add(good)
	f.Add([]byte{})
	f.Add(good[:len(good)-1])
	f.Add(bytes.Repeat([]byte{1}, 60))
	v := NewVerifier([]Key{newKey})
	f.Fuzz(func(t *testing.T, r []byte) {
		head, lease, err := v.Verify(r)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(signer.Append(nil, head, lease), r) {
			t.Fatal("a receipt that is not made again byte by byte")
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add(mustHead(f, testScope()))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, head []byte) {
		s, err := ParseHead(head)
		if err != nil {
			return
		}
		again, err := s.Head()
		if len(head) < MaxBytes-100 && (err != nil || !bytes.Equal(again, head)) {
			t.Fatalf("decoded and encoded again: %x, %v", again, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	s, head := mustSigner(b, newKey), mustHead(b, testScope())
	buf := make([]byte, 0, Size(head))
	b.ReportAllocs()
	for b.Loop() {
		buf = s.Append(buf[:0], head, Lease{Offset: 1, Serial: 2, Attempt: 1, DeadlineMs: 3})
	}
}

func BenchmarkVerify(b *testing.B) {
	r := mustSigner(b, newKey).Append(nil, mustHead(b, testScope()), Lease{Offset: 1})
	v := NewVerifier([]Key{newKey})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := v.Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}
