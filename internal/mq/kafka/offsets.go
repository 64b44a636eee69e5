package kafka

import (
	"context"
	"maps"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Timestamps with a meaning in ListOffsets.
const (
	atLatest   = -1
	atEarliest = -2
)

// offsets resolves a position in each partition. With AtTime and no record that late, it is the log's end.
//
// The end is the last stable offset, what a read-committed consumer can reach.
func (d *Driver) offsets(ctx context.Context, ps []mq.PartitionID, at mq.Start) (map[mq.PartitionID]int64, error) {
	if len(ps) == 0 {
		return map[mq.PartitionID]int64{}, nil
	}
	caps, err := d.Caps(ctx)
	if err != nil {
		return nil, err
	}
	stamp := int64(atEarliest)
	switch at.At {
	case mq.Latest:
		stamp = atLatest
	case mq.AtTime:
		if !caps.TimeLookup {
			return nil, unsupported("offsets by time (Kafka 0.10.1)")
		}
		stamp = at.Time.UnixMilli()
	case mq.Earliest:
	}
	for _, p := range ps {
		// Asked with its name, an unknown topic would be made by brokers before 0.11.
		tm, err := d.meta.get(ctx, p.Topic, metaStale)
		if err != nil {
			return nil, err
		}
		if !tm.has(p.Index) {
			return nil, mq.Errorf(mq.NotFound, "topic %s has no partition %s", p.Topic, p)
		}
	}
	found, err := d.listOffsets(ctx, ps, stamp)
	if err != nil || at.At != mq.AtTime {
		return found, err
	}
	var open []mq.PartitionID
	for p, o := range found {
		if o < 0 {
			open = append(open, p)
		}
	}
	if len(open) == 0 {
		return found, nil
	}
	ends, err := d.listOffsets(ctx, open, atLatest)
	if err != nil {
		return nil, err
	}
	maps.Copy(found, ends)
	return found, nil
}

// listOffsets lets kgo find the leaders, and retries what moved meanwhile.
func (d *Driver) listOffsets(ctx context.Context, ps []mq.PartitionID, stamp int64) (map[mq.PartitionID]int64, error) {
	found := make(map[mq.PartitionID]int64, len(ps))
	left := ps
	var last error
	err := d.retry(ctx, func() (bool, error) {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		if stamp != atEarliest {
			req.IsolationLevel = 1
		}
		topics := map[mq.Topic]int{}
		for _, p := range left {
			i, ok := topics[p.Topic]
			if !ok {
				i = len(req.Topics)
				topics[p.Topic] = i
				t := kmsg.NewListOffsetsRequestTopic()
				t.Topic = string(p.Topic)
				req.Topics = append(req.Topics, t)
			}
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp, rp.MaxNumOffsets, rp.CurrentLeaderEpoch = p.Index, stamp, 1, -1
			req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
		}
		resp, err := req.RequestWith(ctx, d.slow)
		if err != nil {
			last = transportError(err)
			return transportError(err).Class.Retriable(), last
		}
		again := left[:0:0]
		for _, t := range resp.Topics {
			for _, rp := range t.Partitions {
				p := mq.PartitionID{Topic: mq.Topic(t.Topic), Index: rp.Partition}
				if rp.ErrorCode != 0 {
					e := codeError(rp.ErrorCode, "", nil)
					e.Msg = "offsets of topic " + t.Topic + ", partition " + p.String() + ": " + e.Msg
					last = e
					if !kerr.IsRetriable(kerr.ErrorForCode(rp.ErrorCode)) && rp.ErrorCode != kerr.UnknownServerError.Code {
						return false, e
					}
					again = append(again, p)
					continue
				}
				found[p] = rp.Offset
				if resp.Version == 0 && len(rp.OldStyleOffsets) > 0 {
					found[p] = rp.OldStyleOffsets[0]
				}
			}
		}
		left = again
		if len(left) > 0 {
			return true, last
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
