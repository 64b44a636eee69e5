package roster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/mq"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ids(topic mq.Topic, n int) []mq.PartitionID {
	ps := make([]mq.PartitionID, n)
	for i := range ps {
		ps[i] = mq.PartitionID{Topic: topic, Index: int32(i)}
	}
	return ps
}

func TestRosterHandsOverOnlyAfterDone(t *testing.T) {
	t.Parallel()
	r := New(100)
	r.SetPartitions("t", ids("t", 4))
	a := r.Join([]mq.Topic{"t"}, time.Minute)
	first, ok := r.Next(a, t0)
	if want := (mq.Assignment{Epoch: 101, Owned: ids("t", 4), Added: ids("t", 4)}); !ok || !cmp.Equal(first, want) {
		t.Fatalf("first assignment: %s", cmp.Diff(want, first))
	}

	b := r.Join([]mq.Topic{"t"}, time.Minute)
	if got, ok := r.Next(b, t0); !ok || len(got.Owned) != 0 {
		t.Fatalf("second member begins with %+v, %v; want nothing yet", got, ok)
	}
	change, ok := r.Next(a, t0)
	if !ok || len(change.Revoked) != 2 || len(change.Owned) != 4 {
		t.Fatalf("owner is told %+v, %v; want two revoked", change, ok)
	}
	moving := change.Revoked[0]
	if !r.Owns(a, moving, change.Epoch) || r.Holds(b, moving) {
		t.Fatal("a revoked partition left its owner before Done")
	}
	r.Done(a, change.Epoch)
	if r.Owns(a, moving, change.Epoch) {
		t.Fatal("the old owner may still commit after Done")
	}
	got, ok := r.Next(b, t0)
	if !ok || !cmp.Equal(got.Added, change.Revoked) {
		t.Fatalf("new owner got %+v, want %v", got, change.Revoked)
	}

	r.Leave(b)
	back, ok := r.Next(a, t0)
	if !ok || !cmp.Equal(back.Added, change.Revoked) {
		t.Fatalf("after the other left: %+v", back)
	}
	if r.Owns(a, moving, change.Epoch) {
		t.Fatal("an epoch from before the break is valid again")
	}
}

func TestRosterTakesFromWhoIsNeverDone(t *testing.T) {
	t.Parallel()
	r := New(0)
	r.SetPartitions("t", ids("t", 2))
	a := r.Join([]mq.Topic{"t"}, time.Minute)
	r.Next(a, t0)
	b := r.Join([]mq.Topic{"t"}, time.Minute)
	r.Next(b, t0)
	change, _ := r.Next(a, t0)
	if at, ok := r.Deadline(); !ok || !at.Equal(t0.Add(time.Minute)) {
		t.Fatalf("deadline %v, %v", at, ok)
	}
	if r.Expire(t0.Add(59 * time.Second)) {
		t.Fatal("expired early")
	}
	if !r.Expire(t0.Add(time.Minute)) {
		t.Fatal("did not expire")
	}
	lost, ok := r.Next(a, t0)
	if !ok || !cmp.Equal(lost.Lost, change.Revoked) {
		t.Fatalf("told %+v, want lost %v", lost, change.Revoked)
	}
	if got, ok := r.Next(b, t0); !ok || !cmp.Equal(got.Added, change.Revoked) {
		t.Fatalf("new owner got %+v", got)
	}
}

// TestRosterNeverHasTwoOwners runs random joins, leaves, topic changes and answers against what each member believes.
func TestRosterNeverHasTwoOwners(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := New(0)
		believes := map[Member]map[mq.PartitionID]bool{}
		pending := map[Member]mq.Assignment{}
		now := t0
		take := func(m Member) bool {
			a, ok := r.Next(m, now)
			if !ok {
				return false
			}
			for _, p := range a.Lost {
				delete(believes[m], p)
				// What was being given up and is lost may come back: Done for the old one must not end the new ownership.
				old := pending[m]
				old.Revoked = slices.DeleteFunc(slices.Clone(old.Revoked), func(r mq.PartitionID) bool { return r == p })
				pending[m] = old
			}
			for _, p := range a.Added {
				for other, set := range believes {
					if set[p] {
						t.Fatalf("%v added to %d while %d believes it owns it", p, m, other)
					}
				}
				believes[m][p] = true
			}
			if len(a.Owned) != len(believes[m]) {
				t.Fatalf("owned %v, believed %v", a.Owned, believes[m])
			}
			if len(a.Revoked) > 0 {
				old := pending[m]
				a.Revoked = append(a.Revoked, old.Revoked...)
				pending[m] = a
			}
			return true
		}
		finish := func(m Member) bool {
			a := pending[m]
			delete(pending, m)
			for _, p := range a.Revoked {
				delete(believes[m], p)
			}
			if a.Epoch != 0 {
				r.Done(m, a.Epoch)
			}
			return a.Epoch != 0
		}
		members := func() []Member {
			var ms []Member
			for m := range believes {
				ms = append(ms, m)
			}
			slices.Sort(ms)
			return ms
		}
		topics := []mq.Topic{"a", "b", "c"}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			ms := members()
			switch k := rapid.IntRange(0, 4).Draw(t, "step"); {
			case k == 0 || len(ms) == 0:
				var want []mq.Topic
				for _, tp := range topics {
					if rapid.Bool().Draw(t, "wants") {
						want = append(want, tp)
					}
				}
				believes[r.Join(want, time.Minute)] = map[mq.PartitionID]bool{}
			case k == 1:
				m := rapid.SampledFrom(ms).Draw(t, "leaver")
				r.Leave(m)
				delete(believes, m)
				delete(pending, m)
			case k == 2:
				tp := rapid.SampledFrom(topics).Draw(t, "topic")
				r.SetPartitions(tp, ids(tp, rapid.IntRange(0, 7).Draw(t, "partitions")))
				// What vanished is gone before its owner hears of it: the belief ends here.
				for _, m := range ms {
					take(m)
				}
			case k == 3:
				take(rapid.SampledFrom(ms).Draw(t, "member"))
			case k == 4:
				finish(rapid.SampledFrom(ms).Draw(t, "done"))
			}
		}
		// Everybody answers: all partitions that somebody wants are owned, evenly where all want the same.
		for round := 0; ; round++ {
			if round > 100 {
				t.Fatal("the group does not come to rest")
			}
			moved := false
			for _, m := range members() {
				moved = take(m) || moved
				moved = finish(m) || moved
			}
			if !moved {
				break
			}
		}
		for id, p := range r.parts {
			wanted := false
			for _, m := range r.members {
				wanted = wanted || m.topics[id.Topic]
			}
			if wanted && (p.owner == 0 || !believes[p.owner][id]) {
				t.Fatalf("%v has no owner: %s", id, fmt.Sprintf("%+v", *p))
			}
		}
	})
}
