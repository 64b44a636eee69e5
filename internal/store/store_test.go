package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func write(t *testing.T, s *Store, fn func(context.Context, *Tx) error) *State {
	t.Helper()
	st, err := s.Write(t.Context(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestEverythingComesBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd name?#.db")
	s := open(t, path)
	names := []string{"a/b", "a#b", "50%", "..", "日本", "x'; --"}
	want := write(t, s, func(ctx context.Context, tx *Tx) error {
		c := &snapshot.Cluster{Name: "k", Kind: mq.Kafka, Bootstrap: []string{"h:1", "h:2"}, SealedPassword: []byte{0, 1, 0xff}, TLS: true, TLSCA: []byte("ca")}
		if err := tx.InsertCluster(ctx, c); err != nil {
			return err
		}
		for i, n := range names {
			err := errors.Join(
				tx.InsertTopic(ctx, &snapshot.Topic{Name: n, Epoch: 1, Order: "none", Block: 8, Homes: []snapshot.Home{{Cluster: "k", Topic: mq.Topic(n), Partitions: i}}}),
				tx.InsertGroup(ctx, &snapshot.Group{Name: n, Nodes: i, Paused: i%2 == 0, Subscriptions: map[string]snapshot.Settings{n: {Order: snapshot.OrderKey, BackoffMin: time.Second}}}),
				tx.InsertToken(ctx, &snapshot.Token{ID: n, App: n, Kind: "app", Hash: [32]byte{byte(i)}, Expires: start}),
				tx.PutNode(ctx, &snapshot.Node{Name: n, Roles: []string{"control"}, Alive: true}))
			if err != nil {
				return err
			}
		}
		return tx.AddReceiptKey(ctx, SealedKey{ID: 1, Sealed: []byte{9}})
	})
	if want.Version != 1 || len(want.Topics) != len(names) || !want.HasSealed() || want.Topics["a/b"].Version != 1 {
		t.Fatalf("state: %+v", want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("after a restart (-want +got):\n%s", d)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRowVersions(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "c.db"))
	c := &snapshot.Cluster{Name: "k", Kind: mq.Kafka}
	g := &snapshot.Group{Name: "g", Subscriptions: map[string]snapshot.Settings{"t": {}}}
	topic := &snapshot.Topic{Name: "t", Homes: []snapshot.Home{{Cluster: "k", Topic: "t"}}}
	write(t, s, func(ctx context.Context, tx *Tx) error {
		return errors.Join(tx.InsertCluster(ctx, c), tx.InsertGroup(ctx, g), tx.InsertTopic(ctx, topic))
	})
	expect := func(want error, fn func(context.Context, *Tx) error) {
		t.Helper()
		before, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(t.Context(), fn); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		after, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want != nil && cmp.Diff(before, after) != "" {
			t.Errorf("a failed write left something: %s", cmp.Diff(before, after))
		}
	}
	expect(ErrExists, func(ctx context.Context, tx *Tx) error { return tx.InsertCluster(ctx, c) })
	expect(ErrExists, func(ctx context.Context, tx *Tx) error { return tx.InsertTopic(ctx, topic) })
	expect(ErrExists, func(ctx context.Context, tx *Tx) error { return tx.InsertGroup(ctx, g) })
	expect(ErrConflict, func(ctx context.Context, tx *Tx) error { return tx.UpdateCluster(ctx, c, 7) })
	expect(ErrConflict, func(ctx context.Context, tx *Tx) error { return tx.UpdateTopic(ctx, topic, 7) })
	expect(ErrConflict, func(ctx context.Context, tx *Tx) error { return tx.UpdateGroup(ctx, g, 7) })
	expect(nil, func(ctx context.Context, tx *Tx) error { return tx.UpdateCluster(ctx, c, 1) })
	expect(ErrConflict, func(ctx context.Context, tx *Tx) error { return tx.UpdateCluster(ctx, c, 1) })
	expect(ErrInUse, func(ctx context.Context, tx *Tx) error { return tx.DeleteCluster(ctx, "k") })
	expect(ErrInUse, func(ctx context.Context, tx *Tx) error { return tx.DeleteTopic(ctx, "t") })
	expect(ErrNotFound, func(ctx context.Context, tx *Tx) error { return tx.DeleteGroup(ctx, "other") })
	expect(nil, func(ctx context.Context, tx *Tx) error {
		return errors.Join(tx.DeleteGroup(ctx, "g"), tx.DeleteTopic(ctx, "t"), tx.DeleteCluster(ctx, "k"))
	})
	boom := errors.New("boom")
	expect(boom, func(ctx context.Context, tx *Tx) error {
		return errors.Join(tx.InsertCluster(ctx, c), boom)
	})
	st, err := s.Try(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.InsertCluster(ctx, c) })
	if err != nil || st.Clusters["k"] == nil {
		t.Errorf("dry run: %v, %v", st, err)
	}
	if st, err = s.Load(t.Context()); err != nil || len(st.Clusters) != 0 {
		t.Errorf("a dry run left something: %v, %v", st.Clusters, err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	a, b := open(t, path), open(t, path) // two processes, so to speak
	const each = 20
	var wg sync.WaitGroup
	errs := make(chan error, 8*each)
	for w := range 8 {
		wg.Go(func() {
			s := a
			if w%2 == 1 {
				s = b
			}
			for i := range each {
				_, err := s.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Group(ctx, "x"); !errors.Is(err, ErrNotFound) { // read, then write
						return err
					}
					return tx.InsertGroup(ctx, &snapshot.Group{Name: fmt.Sprintf("g-%d-%d", w, i)})
				})
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	st, err := a.Load(t.Context())
	if err != nil || len(st.Groups) != 8*each || st.Version != 8*each {
		t.Errorf("%d groups at version %d, %v", len(st.Groups), st.Version, err)
	}
}

func TestSetupOnce(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "c.db"))
	good, other := [32]byte{1}, [32]byte{2}
	use := func(h [32]byte) error {
		_, err := s.Write(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.UseSetup(ctx, h) })
		return err
	}
	offer := func(expires time.Time) error {
		_, err := s.Write(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.OfferSetup(ctx, good, expires) })
		return err
	}
	if err := use([32]byte{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing offered: %v", err)
	}
	if err := offer(start); err != nil {
		t.Fatal(err)
	}
	if err := use(good); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	if err := offer(start.Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := use(other); !errors.Is(err, ErrNotFound) {
		t.Errorf("another secret: %v", err)
	}
	if err := use(good); err != nil {
		t.Errorf("the secret: %v", err)
	}
	if err := use(good); !errors.Is(err, ErrUsed) {
		t.Errorf("again: %v", err)
	}
	if err := offer(start.Add(time.Hour)); !errors.Is(err, ErrUsed) {
		t.Errorf("offered again: %v", err)
	}
}

func TestDrainingOutlivesHeartbeats(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "c.db"))
	n := &snapshot.Node{Name: "n", Alive: true}
	st := write(t, s, func(ctx context.Context, tx *Tx) error {
		return errors.Join(tx.PutNode(ctx, n), tx.DrainNode(ctx, "n", true), tx.PutNode(ctx, n))
	})
	if !st.Nodes["n"].Draining {
		t.Error("a heartbeat ended the draining")
	}
	st = write(t, s, func(ctx context.Context, tx *Tx) error {
		n.Alive = false
		return errors.Join(tx.PutNode(ctx, n), tx.DeleteNodesUnseen(ctx, start.UnixMilli()+1))
	})
	if len(st.Nodes) != 0 {
		t.Error("a dead node stays")
	}
}

func TestMigrationsGoDownAndUp(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "c.db"))
	p, err := s.provider()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNewerSchemaAndForeignFilesAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path)
	if _, err := s.db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := Open(t.Context(), path, time.Now); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("newer schema: %v", err)
	}
	junk := filepath.Join(t.TempDir(), "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), junk, time.Now); err == nil {
		t.Error("a file that is no database was taken")
	}
}
