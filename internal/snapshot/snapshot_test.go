package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/mq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample(version uint64) *Snapshot {
	h := sha256.Sum256([]byte("token"))
	names := []string{"a/b", "a#b", "50%", "..", "日本"}
	s := &Snapshot{
		Version: version, StoreID: "store-1", SetupDone: true,
		Clusters: map[string]*Cluster{
			"kafka-a": {
				Name: "kafka-a", Kind: mq.Kafka, Bootstrap: []string{"h1:9092", "h2:9092"}, Datacenter: "dc1", Side: "s",
				SASLMechanism: "PLAIN", SASLUser: "u", SealedPassword: []byte{1, 2}, TLS: true, TLSCA: []byte("ca"), TLSCert: []byte("cert"),
				SealedKey: []byte{3}, TLSServerName: "sn", Version: 4,
			},
			"embedded": {Name: "embedded", Kind: mq.Embedded, Node: "n1", Version: 1},
		},
		Topics: map[string]*Topic{}, Groups: map[string]*Group{},
		Nodes:       map[string]*Node{"n1": {Name: "n1", GRPC: "127.0.0.1:1", HTTP: "127.0.0.1:2", Datacenter: "dc1", Build: "b", Roles: []string{"control"}, Draining: true, Alive: true}},
		Tokens:      map[[32]byte]*Token{h: {ID: "t1", App: "a/b", Kind: "app", Hash: h, Expires: time.UnixMilli(1767225600123).UTC()}},
		ReceiptKeys: []ReceiptKey{{ID: 2, Key: []byte("k2")}, {ID: 1, Key: []byte("k1")}},
	}
	for _, n := range names {
		s.Topics[n] = &Topic{Name: n, Epoch: 3, Homes: []Home{{Cluster: "kafka-a", Topic: mq.Topic(n), Partitions: 12}}, Order: "available", Block: 8, Owner: n, RateMessages: 5, RateBytes: 6, Version: 7}
		s.Groups[n] = &Group{Name: n, Paused: true, Suspended: true, Nodes: 2, Version: 9, Subscriptions: map[string]Settings{n: {
			Order: OrderKey, Start: "latest", MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: time.Minute, Drain: 2 * time.Second, Takeover: "wait_lease", Run: 4,
		}}}
	}
	return s
}

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	want := sample(5)
	b, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("changed on the way (-want +got):\n%s", d)
	}
	again, err := Encode(got)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("equal snapshots encode differently (%v)", err)
	}
}

func TestDecodeRefusesEveryDamage(t *testing.T) {
	t.Parallel()
	b, err := Encode(sample(5))
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, err := Decode(b); err == nil {
				t.Fatalf("bit %d of byte %d flipped: accepted", bit, i)
			}
			b[i] ^= 1 << bit
		}
		if _, err := Decode(b[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := Decode(append(b, 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(sample(5))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:30])
	f.Add([]byte(frameMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := Encode(s); err != nil {
			t.Errorf("decoded but cannot be encoded: %v", err)
		}
	})
}

func TestDiskFallsBackToPrevious(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(string) error{
		"truncated": func(p string) error { return os.Truncate(p, 100) },
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"flipped": func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 4
			return os.WriteFile(p, b, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			d, err := NewDisk(dir)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := d.Load(); s != nil || err != nil {
				t.Fatalf("empty folder: %v, %v", s, err)
			}
			for v := range uint64(3) {
				if err := d.Save(sample(v + 1)); err != nil {
					t.Fatal(err)
				}
			}
			if s, err := d.Load(); err != nil || s.Version != 3 {
				t.Fatalf("whole: %v, %v", s, err)
			}
			if err := damage(filepath.Join(dir, currentFile)); err != nil {
				t.Fatal(err)
			}
			s, err := d.Load()
			if s == nil || s.Version != 2 || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("damaged current: %v, %v; want version 2 and ErrCorrupt", s, err)
			}
			// A save must not push the damaged file over the good previous one.
			if err := d.Save(sample(4)); err != nil {
				t.Fatal(err)
			}
			if s, err := d.read(previousFile); err != nil || s.Version != 2 {
				t.Errorf("previous after a save: %v, %v", s, err)
			}
		})
	}
}

func TestDiskSurvivesCrashBetweenRenames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := NewDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Save(sample(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, currentFile), filepath.Join(dir, previousFile)); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Load(); err != nil || s == nil || s.Version != 1 {
		t.Errorf("only the previous copy: %v, %v", s, err)
	}
}

func TestHolderOnlyGoesForward(t *testing.T) {
	t.Parallel()
	h := NewHolder(nil)
	first := h.Changed()
	if err := h.Set(sample(5)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first:
	default:
		t.Error("a change was not told")
	}
	second := h.Changed()
	if err := h.Set(sample(5)); err != nil {
		t.Errorf("the same version: %v", err)
	}
	if err := h.Set(sample(4)); err == nil {
		t.Error("an older version was taken")
	}
	other := sample(9)
	other.StoreID = "store-2"
	if err := h.Set(other); err == nil {
		t.Error("another store's snapshot was taken")
	}
	select {
	case <-second:
		t.Error("a change was told without one")
	default:
	}
	if h.Current().Version != 5 {
		t.Errorf("version %d", h.Current().Version)
	}
}

func TestHolderKeepsOnDisk(t *testing.T) {
	t.Parallel()
	d, err := NewDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := NewHolder(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.Keep(ctx, d, slog.New(slog.DiscardHandler)) }()
	for v := range uint64(50) {
		if err := h.Set(sample(v + 1)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	if s, err := d.Load(); err != nil || s == nil || s.Version != 50 {
		t.Errorf("on disk: %v, %v; want version 50", s, err)
	}
}
