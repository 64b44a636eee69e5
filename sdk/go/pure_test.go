package sluice

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"
	"time"
)

// TestDispatchRunsOneAfterTheOther: whatever is popped, dropped and done, a run never has two out and keeps its order.
func TestDispatchRunsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := dispatch{runs: map[runKey]*run{}}
		s := &consumeStream{}
		var out []*lease
		last := map[uint64]int64{}
		pushed, gone := 0, 0
		for range 500 {
			switch rng.IntN(8) {
			case 0, 1, 2:
				pushed++
				d.push(&lease{s: s, d: &Delivery{Run: uint64(rng.IntN(4)), Offset: int64(pushed)}})
			case 3, 4, 5:
				l := d.pop()
				if l == nil {
					continue
				}
				if l.d.Run != 0 {
					if slices.ContainsFunc(out, func(o *lease) bool { return o.d.Run == l.d.Run }) {
						t.Fatalf("seed %d: two of run %d are out", seed, l.d.Run)
					}
					if l.d.Offset < last[l.d.Run] {
						t.Fatalf("seed %d: run %d: %d after %d", seed, l.d.Run, l.d.Offset, last[l.d.Run])
					}
					last[l.d.Run] = l.d.Offset
				}
				out = append(out, l)
			case 6:
				if len(out) > 0 {
					d.done(out[0])
					out = out[1:]
					gone++
				}
			default:
				if rng.IntN(10) == 0 {
					r := uint64(1 + rng.IntN(3))
					gone += len(d.drop(func(l *lease) bool { return l.d.Run == r }))
				}
			}
			if pushed != gone+len(out)+d.len() {
				t.Fatalf("seed %d: %d pushed, %d gone, %d out, %d wait", seed, pushed, gone, len(out), d.len())
			}
		}
		for len(out) > 0 || d.len() > 0 {
			if l := d.pop(); l != nil {
				out = append(out, l)
				continue
			}
			if len(out) == 0 {
				t.Fatalf("seed %d: %d wait and nothing can go", seed, d.len())
			}
			d.done(out[0])
			out = out[1:]
		}
		if len(d.runs) != 0 {
			t.Fatalf("seed %d: %d runs are remembered", seed, len(d.runs))
		}
	}
}

// TestCreditsAreExact: what nodes may deliver and what is here never exceed the limit, and nobody starves for good.
func TestCreditsAreExact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		c := credits{max: 1 + rng.IntN(20)}
		now := time.Unix(1, 0)
		var used []*share
		check := func() {
			total := c.used
			for _, s := range c.shares {
				total += s.granted
			}
			if total > c.max || c.used != len(used) {
				t.Fatalf("seed %d: %d of %d are granted or here; used %d, want %d", seed, total, c.max, c.used, len(used))
			}
		}
		for range 500 {
			now = now.Add(time.Duration(rng.IntN(300)) * time.Millisecond)
			switch rng.IntN(8) {
			case 0:
				if len(c.shares) < 5 {
					c.open(now)
				}
			case 1:
				if s := c.reclaim(now); s != nil {
					c.close(s)
					c.open(now)
				}
			case 2:
				if len(c.shares) > 1 && rng.IntN(10) == 0 {
					c.close(c.shares[rng.IntN(len(c.shares))])
				}
			case 3, 4, 5:
				if len(c.shares) > 0 {
					if s := c.shares[rng.IntN(len(c.shares))]; s.granted > 0 {
						c.delivered(now, s, 1)
						used = append(used, s)
					}
				}
			default:
				if len(used) > 0 {
					c.settled(used[0], 1)
					used = used[1:]
				}
			}
			c.grant(now, func(*share, int) {})
			check()
		}
	}
}

func TestReclaimReachesEveryStream(t *testing.T) {
	t.Parallel()
	c := credits{max: 1}
	now := time.Unix(1, 0)
	had := map[*share]bool{}
	names := map[*share]int{}
	for i := range 3 {
		names[c.open(now.Add(time.Duration(i)))] = i
	}
	order := ""
	for range 3 {
		c.grant(now, func(s *share, _ int) { had[s] = true; order += fmt.Sprint(names[s]) })
		now = now.Add(reclaimAfter)
		s := c.reclaim(now)
		if s == nil {
			t.Fatal("nothing is reclaimed")
		}
		name := names[s]
		c.close(s)
		names[c.open(now)] = name
	}
	if order != "012" {
		t.Fatalf("granted in the order %s", order)
	}
}

func TestIDsAreUUIDv7InOrderOfTime(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	now := time.UnixMilli(1_700_000_000_000)
	prev, seen := "", map[string]bool{}
	for i := range 1000 {
		id := newID(now.Add(time.Duration(i) * time.Millisecond))
		if !form.MatchString(id) || id <= prev || seen[id] {
			t.Fatalf("id %s after %s", id, prev)
		}
		prev, seen[id] = id, true
	}
}

func TestSpaceWakesWaitersInTurn(t *testing.T) {
	t.Parallel()
	s := space{bytes: 10, messages: 1}
	if !s.take(5) || s.take(1) {
		t.Fatal("one message fits, not two")
	}
	a, b := s.wait(), s.wait()
	s.give(5, 1)
	select {
	case <-a:
	default:
		t.Fatal("the first waiter was not woken")
	}
	s.leave(a) // it went away: its turn goes on
	select {
	case <-b:
	default:
		t.Fatal("the turn was lost")
	}
}
