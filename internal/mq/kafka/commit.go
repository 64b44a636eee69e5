package kafka

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// maxCommitBytes keeps commits far below the 1 MB that a broker's offsets topic takes as one batch; beyond it
// brokers refuse the whole request, with a misleading code.
const maxCommitBytes = 512 << 10

// Commit implements mq.Group. Brokers check the member and its generation, not whether the member owns the
// partition, so the ownership is checked here under the lock that revocations take, before every try.
func (g *group) Commit(ctx context.Context, epoch int64, cs map[mq.PartitionID]mq.Commit) map[mq.PartitionID]error {
	failed := map[mq.PartitionID]error{}
	for _, part := range splitCommits(cs, maxCommitBytes) {
		g.commitPart(ctx, epoch, part, failed)
	}
	for _, err := range failed {
		what := "failed"
		if mq.ClassOf(err) == mq.Fenced {
			what = "fenced"
		}
		g.d.m.commits.WithLabelValues(what).Inc()
	}
	g.d.m.commits.WithLabelValues("ok").Add(float64(len(cs) - len(failed)))
	return failed
}

// splitCommits cuts by bytes, in the order of the partitions.
func splitCommits(cs map[mq.PartitionID]mq.Commit, limit int) []map[mq.PartitionID]mq.Commit {
	ps := slices.Collect(maps.Keys(cs))
	sortPartitions(ps)
	var parts []map[mq.PartitionID]mq.Commit
	size := limit
	for _, p := range ps {
		n := len(cs[p].Map) + len(p.Topic) + 32
		if len(parts) == 0 || size+n > limit {
			parts = append(parts, map[mq.PartitionID]mq.Commit{})
			size = 0
		}
		size += n
		parts[len(parts)-1][p] = cs[p]
	}
	return parts
}

// commitPart sends one request, and again what failed for the moment.
func (g *group) commitPart(ctx context.Context, epoch int64, cs map[mq.PartitionID]mq.Commit, failed map[mq.PartitionID]error) {
	ctx, cancel := g.d.bound(ctx, g.d.cfg.AdminTimeout)
	defer cancel()
	left := maps.Clone(cs)
	_ = g.d.retry(ctx, func() (bool, error) { // the errors are in failed
		try, member, gen, release := g.mayCommit(epoch, left, failed)
		if len(try) == 0 {
			release()
			return false, nil
		}
		codes, err := g.d.commitOffsets(ctx, g.cfg.Group, member, gen, try)
		release()
		left = g.commitAgain(try, codes, err, member, gen, failed)
		if len(left) > 0 {
			return true, mq.Busy
		}
		return false, nil
	})
}

// mayCommit picks what is owned in the epoch, notes the requests as in flight, and gives the identity to use. The
// three happen under one lock, so a commit that got through before a revocation ends carries the generation of before it.
func (g *group) mayCommit(epoch int64, cs map[mq.PartitionID]mq.Commit, failed map[mq.PartitionID]error) (
	try map[mq.PartitionID]mq.Commit, member string, gen int32, release func(),
) {
	g.mu.Lock()
	defer g.mu.Unlock()
	try = make(map[mq.PartitionID]mq.Commit, len(cs))
	var held []*ownership
	for p, c := range cs {
		if g.closing {
			failed[p] = g.errClosed()
			continue
		}
		o := g.owned[p]
		if o == nil || o.since > epoch || epoch > g.epoch {
			failed[p] = mq.Errorf(mq.Fenced, "group %s: partition %s of topic %s is not owned in epoch %d", g.cfg.Group, p, p.Topic, epoch)
			continue
		}
		o.commits++
		held = append(held, o)
		try[p] = c
	}
	member, gen = g.cl.GroupMetadata()
	return try, member, gen, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, o := range held {
			if o.commits--; o.commits == 0 && o.quiet != nil {
				close(o.quiet)
			}
		}
	}
}

// commitAgain sorts the answers: what is done leaves failed, what may succeed a little later is returned.
func (g *group) commitAgain(try map[mq.PartitionID]mq.Commit, codes map[mq.PartitionID]int16, err error, member string, gen int32,
	failed map[mq.PartitionID]error,
) map[mq.PartitionID]mq.Commit {
	again := map[mq.PartitionID]mq.Commit{}
	if err != nil {
		e := *transportError(err)
		e.MaybeSent = true
		for p, c := range try {
			failed[p] = &e
			if e.Class.Retriable() {
				again[p] = c
			}
		}
		return again
	}
	nowMember, nowGen := g.cl.GroupMetadata()
	moved := nowMember != member || nowGen != gen
	for p, c := range try {
		code, answered := codes[p]
		if !answered {
			code = kerr.UnknownServerError.Code
		}
		if code == 0 {
			delete(failed, p)
			continue
		}
		failed[p] = codeError(code, "", nil)
		switch code {
		case kerr.IllegalGeneration.Code, kerr.UnknownMemberID.Code:
			// The member may have rejoined while the request was on its way; ownership is checked again.
			if moved {
				again[p] = c
			}
		case kerr.OffsetMetadataTooLarge.Code:
			g.d.lowerCommitMetadata(len(c.Map))
		default:
			if retriable(failed[p]) {
				again[p] = c
			}
		}
	}
	return again
}

// commitOffsets is one OffsetCommit request to the group's coordinator. kgo's helpers for it wait on the lock
// of the membership while the group joins (franz-go issue 1250).
func (d *Driver) commitOffsets(ctx context.Context, group, member string, gen int32, cs map[mq.PartitionID]mq.Commit) (map[mq.PartitionID]int16, error) {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = group, member, gen
	topics := map[mq.Topic]int{}
	ids := map[[16]byte]mq.Topic{}
	for p, c := range cs {
		i, ok := topics[p.Topic]
		if !ok {
			i = len(req.Topics)
			topics[p.Topic] = i
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic = string(p.Topic)
			// From version 10 on topics go by id alone.
			tm, err := d.meta.get(ctx, p.Topic, metaStale)
			if err != nil {
				return nil, err
			}
			t.TopicID = tm.id
			ids[tm.id] = p.Topic
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset = p.Index, c.Offset
		m := c.Map
		rp.Metadata = &m
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	kresp, err := d.slow.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := kresp.(*kmsg.OffsetCommitResponse)
	codes := make(map[mq.PartitionID]int16, len(cs))
	for _, t := range resp.Topics {
		name := mq.Topic(t.Topic)
		if resp.Version >= 10 {
			name = ids[t.TopicID]
		}
		for _, rp := range t.Partitions {
			codes[mq.PartitionID{Topic: name, Index: rp.Partition}] = rp.ErrorCode
		}
	}
	return codes, nil
}
