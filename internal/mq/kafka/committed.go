package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Committed implements mq.Group. A partition that was added to its topic after this member joined begins at its
// first record, whatever Start says: else what was written before the group saw it would be skipped.
func (g *group) Committed(ctx context.Context, ps []mq.PartitionID) (map[mq.PartitionID]mq.Commit, error) {
	g.mu.Lock()
	epoch, closing := g.epoch, g.closing
	g.mu.Unlock()
	if closing {
		return nil, g.errClosed()
	}
	all, err := g.d.groupOffsets(ctx, g.cfg.Group)
	if err != nil {
		return nil, err
	}
	found := make(map[mq.PartitionID]mq.Commit, len(ps))
	missing := map[mq.Start][]mq.PartitionID{}
	for _, p := range ps {
		if c, ok := all[p]; ok {
			found[p] = c
			continue
		}
		start := g.cfg.Start[p.Topic]
		if n, ok := g.counts[p.Topic]; ok && int(p.Index) >= n {
			start = mq.Start{At: mq.Earliest}
		}
		missing[start] = append(missing[start], p)
	}
	fresh := map[mq.PartitionID]mq.Commit{}
	for start, ps := range missing {
		at, err := g.d.offsets(ctx, ps, start)
		if err != nil {
			return nil, err
		}
		for p, o := range at {
			fresh[p] = mq.Commit{Offset: o}
			found[p] = fresh[p]
		}
	}
	if len(fresh) == 0 {
		return found, nil
	}
	for p, err := range g.Commit(ctx, epoch, fresh) {
		return nil, wrapf(err, "group %s: commit the start of topic %s, partition %s", g.cfg.Group, p.Topic, p)
	}
	return found, nil
}

// groupOffsets are all committed positions of a group.
func (d *Driver) groupOffsets(ctx context.Context, group string) (map[mq.PartitionID]mq.Commit, error) {
	ctx, cancel := d.bound(ctx, 2*d.cfg.AdminTimeout)
	defer cancel()
	var resp kadm.OffsetResponses
	err := d.retry(ctx, func() (bool, error) {
		var err error
		resp, err = kadm.NewClient(d.slow).FetchOffsets(ctx, group)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			e := transportError(err)
			e.Msg = "offsets of group " + group + ": " + e.Msg
			return retriable(e), e
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	found := map[mq.PartitionID]mq.Commit{}
	resp.Each(func(o kadm.OffsetResponse) {
		if o.At >= 0 {
			found[mq.PartitionID{Topic: mq.Topic(o.Topic), Index: o.Partition}] = mq.Commit{Offset: o.At, Map: o.Metadata}
		}
	})
	return found, nil
}
