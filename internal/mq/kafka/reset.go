package kafka

import (
	"context"

	"github.com/sluice-mq/sluice/internal/mq"
)

// startOver finds out where reading can go on, in the background, and leaves a Reset for the next Fetch.
// It needs f.mu.
func (f *fetcher) startOver(c *cursor, recreated bool) {
	if f.closed {
		return
	}
	c.polling = true
	seek, offset := c.seek, c.want
	f.wg.Go(func() {
		earliest, latest, err := f.ends(c.id)
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.seek != seek || f.cursors[c.id] != c {
			return
		}
		c.polling = false
		defer c.signal()
		if err != nil {
			c.err = transportError(err)
			f.noLeader(c, c.err)
			return
		}
		c.err = nil
		reset := mq.Reset{Earliest: earliest, Recreated: recreated}
		cause := "recreated"
		switch {
		case recreated:
			c.hasID = false
		case offset < earliest:
			cause, reset.Lost = "retention", earliest-offset
		case offset > latest:
			// The log is shorter than the position: an unclean election, or a topic that was made anew on a cluster without
			// topic ids. Going on at the end could skip records, so it begins at the start (decision: never lose, seldom repeat).
			cause = "truncated"
		default:
			// In range after all: a follower that has caught up with its leader's past, or a moment's race.
			f.poll(c)
			return
		}
		f.d.m.resets.WithLabelValues(cause).Inc()
		c.reset, c.resetNext = &reset, earliest
	})
}

// ends are the first offset of a partition and the one after its last.
func (f *fetcher) ends(p mq.PartitionID) (earliest, latest int64, err error) {
	ctx, cancel := context.WithTimeout(f.ctx, f.d.cfg.AdminTimeout)
	defer cancel()
	ps := []mq.PartitionID{p}
	first, err := f.d.offsets(ctx, ps, mq.Start{At: mq.Earliest})
	if err != nil {
		return 0, 0, err
	}
	last, err := f.d.offsets(ctx, ps, mq.Start{At: mq.Latest})
	if err != nil {
		return 0, 0, err
	}
	return first[p], last[p], nil
}
