package embedded

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/mq"
)

// TestLogIsWhatAModelSays compares the store with slices in memory, through reopening and power cuts.
func TestLogIsWhatAModelSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		now := time.UnixMilli(1_700_000_000_000)
		clock := func() time.Time { return now }
		s := openMem(t, fs, Config{RetentionInterval: time.Hour}, clock)
		defer func() { closeStore(t, s) }()
		createTopic(t, s, "t", 2, nil)
		type model struct {
			start int64
			log   []string // from offset 0 on
			times []int64
		}
		models := make([]model, 2)
		ctx := context.Background()
		for step := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, 1).Draw(rt, "partition")
			m, p := &models[i], mq.PartitionID{Topic: "t", Index: int32(i)}
			end := int64(len(m.log))
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0, 1:
				var bs []string
				for k := range rapid.IntRange(1, 5).Draw(rt, "records") {
					b := fmt.Sprintf("%d/%d/", step, k)
					if rapid.IntRange(0, 9).Draw(rt, "large") == 0 {
						b += strings.Repeat("x", batchTarget)
					}
					bs = append(bs, b)
					m.times = append(m.times, now.UnixMilli())
				}
				m.log = append(m.log, bs...)
				if last := put(t, s, p, bs...); last != int64(len(m.log))-1 {
					rt.Fatalf("last offset %d, want %d", last, len(m.log)-1)
				}
				now = now.Add(time.Second)
			case 2:
				below := rapid.Int64Range(0, end).Draw(rt, "below")
				if err := s.Admin().DeleteRecords(ctx, map[mq.PartitionID]int64{p: below}); err != nil {
					rt.Fatal(err)
				}
				m.start = max(m.start, below)
			case 3:
				closeStore(t, s)
				s = openMem(t, fs, Config{RetentionInterval: time.Hour}, clock)
			case 4:
				cut := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(step)))})
				closeStore(t, s)
				fs = cut
				s = openMem(t, fs, Config{RetentionInterval: time.Hour}, clock)
			case 5:
				if end > 0 {
					o := rapid.Int64Range(0, end-1).Draw(rt, "offset")
					want := end
					for k := m.start; k < end; k++ {
						if m.times[k] >= m.times[o] {
							want = k
							break
						}
					}
					got, err := s.Reader().Offsets(ctx, []mq.PartitionID{p}, mq.Start{At: mq.AtTime, Time: time.UnixMilli(m.times[o])})
					if err != nil || got[p] != want {
						rt.Fatalf("offset at the time of %d: %d, %v; want %d", o, got[p], err, want)
					}
				}
			}
			for i, m := range models {
				p := mq.PartitionID{Topic: "t", Index: int32(i)}
				if diff := cmp.Diff(m.log[m.start:], append([]string{}, bodies(t, s, p, m.start)...)); diff != "" && len(m.log[m.start:]) > 0 {
					rt.Fatalf("partition %d: %s", i, diff)
				}
			}
		}
	})
}

// TestAcknowledgedSurvivesAPowerCut cuts the power at a random moment under load, with no, some or all unsynced data kept.
func TestAcknowledgedSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	for round := range 12 {
		fs := vfs.NewCrashableMem()
		s := openMem(t, fs, Config{MemTableBytes: 1 << 20}, nil)
		createTopic(t, s, "t", 4, nil)
		g, err := s.Group(t.Context(), mq.GroupConfig{Group: "g", Topics: []mq.Topic{"t"}})
		if err != nil {
			t.Fatal(err)
		}
		a, err := g.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var acked [4][]string
		var committed [4]int64
		for i := range 40 + 10*round {
			n := i % 4
			p := mq.PartitionID{Topic: "t", Index: int32(n)}
			b := fmt.Sprintf("%d-%s", i, strings.Repeat("x", 4000*(i%7)))
			put(t, s, p, b)
			acked[n] = append(acked[n], b)
			if i%5 == 0 {
				committed[n] = int64(len(acked[n]))
				if failed := g.Commit(t.Context(), a.Epoch, map[mq.PartitionID]mq.Commit{p: {Offset: committed[n], Map: "m"}}); len(failed) > 0 {
					t.Fatal(failed)
				}
			}
		}
		// More is on its way while the power goes.
		for i := range 20 {
			s.Producer().Produce(context.Background(), mq.PartitionID{Topic: "t", Index: int32(i % 4)}, []mq.Record{{Body: []byte("late")}}, func([]mq.Result) {})
		}
		cut := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: round % 3 * 50, RNG: rand.New(rand.NewPCG(7, uint64(round)))})
		closeStore(t, s)

		s = openMem(t, cut, Config{}, nil)
		cs, err := s.Admin().GroupOffsets(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		for n := range acked {
			p := mq.PartitionID{Topic: "t", Index: int32(n)}
			got := bodies(t, s, p, 0)
			if len(got) < len(acked[n]) || !cmp.Equal(got[:len(acked[n])], acked[n]) {
				t.Fatalf("round %d partition %d: %d records, %d were acknowledged", round, n, len(got), len(acked[n]))
			}
			for _, b := range got[len(acked[n]):] {
				if b != "late" {
					t.Fatalf("round %d: %q from nowhere", round, b)
				}
			}
			if cs[p].Offset != committed[n] {
				t.Fatalf("round %d partition %d: position %d, committed was %d", round, n, cs[p].Offset, committed[n])
			}
		}
		closeStore(t, s)
	}
}

func TestRetentionNeverTurnsOffsetsBack(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	now := time.UnixMilli(1_700_000_000_000)
	clock := func() time.Time { return now }
	cfg := Config{RetentionTime: time.Hour, RetentionInterval: time.Hour}
	s := openMem(t, fs, cfg, clock)
	createTopic(t, s, "t", 1, nil)
	createTopic(t, s, "kept", 1, map[string]string{"retention.ms": "-1"})
	p, kept := mq.PartitionID{Topic: "t"}, mq.PartitionID{Topic: "kept"}
	put(t, s, p, numbered("old", 10)...)
	put(t, s, kept, numbered("old", 10)...)
	now = now.Add(30 * time.Minute)
	put(t, s, p, numbered("new", 5)...)
	now = now.Add(45 * time.Minute)
	if err := s.retention(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(numbered("new", 5), bodies(t, s, p, 0)); diff != "" {
		t.Fatalf("after an hour and a quarter: %s", diff)
	}
	now = now.Add(10 * time.Hour)
	if err := s.retention(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if got := bodies(t, s, p, 0); len(got) != 0 {
		t.Fatalf("after ten hours: %v", got)
	}
	if got := bodies(t, s, kept, 0); len(got) != 10 {
		t.Fatalf("a topic kept for ever has %d records", len(got))
	}
	closeStore(t, s)
	s = openMem(t, fs, cfg, clock)
	defer closeStore(t, s)
	b, err := s.Reader().Fetch(t.Context(), p, 3, mq.Limits{})
	if err != nil || b.Reset == nil || b.Reset.Lost != 12 || b.Next != 15 {
		t.Fatalf("fetch of what is gone: %+v, %v", b, err)
	}
	if o := put(t, s, p, "x"); o != 15 {
		t.Fatalf("the next offset is %d, want 15", o)
	}
}

func TestRetentionBySizeTakesTheOldest(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	s := openMem(t, vfs.NewMem(), Config{RetentionBytes: 2 << 20, RetentionInterval: time.Hour}, func() time.Time { return now })
	defer closeStore(t, s)
	createTopic(t, s, "t", 2, nil)
	createTopic(t, s, "own", 1, map[string]string{"retention.bytes": "100000"})
	body := strings.Repeat("x", 50_000)
	old, young, own := mq.PartitionID{Topic: "t"}, mq.PartitionID{Topic: "t", Index: 1}, mq.PartitionID{Topic: "own"}
	for range 30 {
		put(t, s, old, body)
		put(t, s, own, body)
	}
	now = now.Add(time.Minute)
	for range 30 {
		put(t, s, young, body)
	}
	if err := s.retention(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats().LogBytes; got > 2<<20 || got < 1<<20 {
		t.Errorf("%d bytes are left of at most %d", got, 2<<20)
	}
	if n := len(bodies(t, s, young, 0)); n != 30 {
		t.Errorf("the young partition has %d of 30", n)
	}
	if n := len(bodies(t, s, own, 0)); n < 1 || n > 3 {
		t.Errorf("the partition with a limit of its own has %d records", n)
	}
	if n := len(bodies(t, s, old, 0)); n == 30 || n == 0 {
		t.Errorf("the old partition has %d of 30", n)
	}
}

func TestEpochsGrowOverRestarts(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	last := int64(0)
	for i := range 4 {
		s := openMem(t, fs, Config{}, nil)
		if i == 0 {
			createTopic(t, s, "t", 1, nil)
		}
		for range 2 { // and over a group that was empty
			g, err := s.Group(t.Context(), mq.GroupConfig{Group: "g", Topics: []mq.Topic{"t"}})
			if err != nil {
				t.Fatal(err)
			}
			a, err := g.Next(t.Context())
			if err != nil || a.Epoch <= last {
				t.Fatalf("epoch %d after %d, %v", a.Epoch, last, err)
			}
			last = a.Epoch
			if err := g.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		closeStore(t, s)
	}
}

func TestDeletedTopicIsLostToItsGroup(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem(), Config{}, nil)
	defer closeStore(t, s)
	createTopic(t, s, "t", 2, nil)
	p := mq.PartitionID{Topic: "t"}
	put(t, s, p, "old")
	g, err := s.Group(t.Context(), mq.GroupConfig{Group: "g", Topics: []mq.Topic{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := g.Next(t.Context())
	g.Commit(t.Context(), first.Epoch, map[mq.PartitionID]mq.Commit{p: {Offset: 1}})
	fetched := make(chan error, 1)
	go func() {
		_, err := g.Fetch(context.Background(), p, 1, mq.Limits{MaxWait: time.Minute})
		fetched <- err
	}()
	if err := s.Admin().DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if err := <-fetched; !errors.Is(err, mq.NotFound) && !errors.Is(err, mq.Fenced) {
		t.Errorf("the waiting fetch ended with %v", err)
	}
	if a, err := g.Next(t.Context()); err != nil || len(a.Lost) != 2 || len(a.Owned) != 0 {
		t.Fatalf("told %+v, %v; want both lost", a, err)
	}
	createTopic(t, s, "t", 1, nil)
	a, err := g.Next(t.Context())
	if err != nil || len(a.Added) != 1 {
		t.Fatalf("told %+v, %v; want the new one", a, err)
	}
	if cs, err := g.Committed(t.Context(), a.Added); err != nil || cs[p].Offset != 0 {
		t.Errorf("the new topic is read from %+v, %v", cs, err)
	}
	failed := g.Commit(t.Context(), first.Epoch, map[mq.PartitionID]mq.Commit{p: {Offset: 1}})
	if !errors.Is(failed[p], mq.Fenced) {
		t.Errorf("a commit meant for the old topic: %v", failed[p])
	}
}
