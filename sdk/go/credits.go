package sluice

import (
	"slices"
	"time"
)

// reclaimAfter is how long a stream may sit on credit that another one lacks.
const reclaimAfter = 500 * time.Millisecond

// credits shares the messages that may be in flight among streams, so that never more than max are delivered and not
// settled. Credit that was given cannot be taken back but by ending the stream. It is pure; the receiver's mutex guards it.
type credits struct {
	max    int
	used   int // delivered, not settled, dead streams' messages included
	shares []*share
}

// share is a stream's part.
type share struct {
	granted int // may still be delivered
	used    int // delivered, not settled
	since   time.Time
	retired bool // gets nothing more
}

func (c *credits) open(now time.Time) *share {
	s := &share{since: now}
	c.shares = append(c.shares, s)
	return s
}

// close voids what the stream was granted; what it delivered stays in use.
func (c *credits) close(s *share) {
	c.shares = slices.DeleteFunc(c.shares, func(x *share) bool { return x == s })
	s.granted = 0
}

func (c *credits) delivered(now time.Time, s *share, n int) {
	s.granted = max(s.granted-n, 0)
	s.used += n
	c.used += n
	s.since = now
}

func (c *credits) settled(s *share, n int) {
	s.used -= n
	c.used -= n
}

func (c *credits) free() int {
	n := c.max - c.used
	for _, s := range c.shares {
		n -= s.granted
	}
	return max(n, 0)
}

// grant tells each stream how many more it may deliver: even shares, in steps that are worth a frame; who waits longest
// comes first.
func (c *credits) grant(now time.Time, tell func(s *share, n int)) {
	free := c.free()
	if free == 0 || len(c.shares) == 0 {
		return
	}
	active := 0
	for _, s := range c.shares {
		if !s.retired {
			active++
		}
	}
	part := max(c.max/max(active, 1), 1)
	slices.SortStableFunc(c.shares, func(a, b *share) int { return a.since.Compare(b.since) })
	for _, s := range slices.Clone(c.shares) {
		n := min(part-s.granted-s.used, free)
		if s.retired || n <= 0 || (s.granted > 0 && n < max(part/4, 1)) {
			continue
		}
		s.granted += n
		s.since = now
		free -= n
		tell(s, n)
	}
}

// reclaim is a stream that sits on credit it does not use while another one has none; nil: none does.
func (c *credits) reclaim(now time.Time) *share {
	if c.free() > 0 {
		return nil
	}
	starved := slices.ContainsFunc(c.shares, func(s *share) bool { return !s.retired && s.granted == 0 && s.used == 0 })
	if !starved {
		return nil
	}
	for _, s := range c.shares {
		if !s.retired && s.granted > 0 && s.used == 0 && now.Sub(s.since) >= reclaimAfter {
			return s
		}
	}
	return nil
}
