package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/store"
)

// DeadLetter is a message that a group gave up. Message.Topic is the group's
// dead-letter topic, and its partition and offset are those in it.
type DeadLetter struct {
	Message         *Message
	Cause           string
	OriginTopic     string
	OriginPartition string
	OriginOffset    int64
	Attempts        int
	DeadAt          time.Time
}

// letters is a group's dead-letter topic on one cluster.
type letters struct {
	group, cluster string
	d              mq.Driver
	topic          mq.Topic
	ids            []mq.PartitionID
	spans          []span
}

// letterBoxes finds a group's dead-letter topics. Partition "" is all of them.
func (s *Service) letterBoxes(ctx context.Context, group, partition string) ([]letters, error) {
	g := s.current().Groups[group]
	if g == nil {
		return nil, stored(store.ErrNotFound, fault.GroupNotFound, "group", group)
	}
	var boxes []letters
	for _, cluster := range slices.Sorted(maps.Keys(s.places(g))) {
		d, err := s.deps.Clusters.Driver(cluster)
		if err != nil {
			return nil, err
		}
		b := letters{group: group, cluster: cluster, d: d, topic: mq.DeadLetterTopic(group)}
		b.ids, err = partitions(ctx, d, cluster, b.topic, partition)
		if fault.ReasonOf(err) == fault.TopicNotFound {
			continue // no dead letter yet
		}
		if err != nil {
			return nil, err
		}
		if b.spans, err = s.spans(ctx, d, cluster, b.ids, &MessageQuery{Partition: partition}); err != nil {
			return nil, err
		}
		boxes = append(boxes, b)
	}
	return boxes, nil
}

// LetterQuery says which dead letters: one by Partition and Offset, or the first Count.
type LetterQuery struct {
	Group     string
	Partition string
	Offset    *int64
	Count     int // 0: 100; at most 10,000
}

// ListDeadLetters gives a group's dead letters to yield, the oldest of each partition first.
func (s *Service) ListDeadLetters(ctx context.Context, q LetterQuery, yield func(*DeadLetter) error) error {
	if q.Count == 0 {
		q.Count = defaultRead
	}
	if q.Count < 0 || q.Count > maxRead {
		return fault.New(fault.InvalidArgument, "count %d; choose at most %d", q.Count, maxRead)
	}
	boxes, err := s.chosen(ctx, q.Group, q.Partition, q.Offset)
	if err != nil {
		return err
	}
	left, found := q.Count, false
	for _, b := range boxes {
		r := reading{d: b.d, cluster: b.cluster}
		for _, sp := range b.spans {
			_, err := r.each(ctx, sp, func(p mq.PartitionID, rec *mq.Record) (bool, error) {
				if left == 0 {
					return false, nil
				}
				left--
				found = true
				return true, yield(letter(b.cluster, p, rec))
			})
			if err != nil {
				return err
			}
		}
	}
	if q.Offset != nil && !found {
		return missingLetter(q.Group, q.Partition, *q.Offset)
	}
	return nil
}

func missingLetter(group, partition string, offset int64) error {
	return fault.New(fault.InvalidArgument, "group %q has no dead letter at partition %s, offset %d; list them with `sluice dlq list %s`", group, partition, offset, group)
}

// chosen narrows the boxes to one letter where an offset is given.
func (s *Service) chosen(ctx context.Context, group, partition string, offset *int64) ([]letters, error) {
	if offset != nil && partition == "" {
		return nil, fault.New(fault.InvalidArgument, "offset %d without a partition; say which one", *offset)
	}
	boxes, err := s.letterBoxes(ctx, group, partition)
	if err != nil || offset == nil {
		return boxes, err
	}
	for i := range boxes {
		for j := range boxes[i].spans {
			sp := &boxes[i].spans[j]
			if *offset < sp.start || *offset >= sp.end {
				sp.start = sp.end // not here
				continue
			}
			sp.start, sp.end = *offset, *offset+1
		}
	}
	return boxes, nil
}

func letter(cluster string, p mq.PartitionID, rec *mq.Record) *DeadLetter {
	m := message(string(p.Topic), cluster, p, rec)
	l := &DeadLetter{
		Message: m, Cause: header(rec, mq.HeaderCause), Attempts: m.Attempt,
		OriginTopic: header(rec, mq.HeaderOriginTopic), OriginPartition: header(rec, mq.HeaderOriginPartition), DeadAt: rec.Timestamp,
	}
	l.OriginOffset, _ = strconv.ParseInt(header(rec, mq.HeaderOriginOffset), 10, 64) // 0 where it is missing
	if ms, err := strconv.ParseInt(header(rec, mq.HeaderDeadAt), 10, 64); err == nil {
		l.DeadAt = time.UnixMilli(ms).UTC()
	}
	return l
}

// RedeliverRequest says which dead letters (one, or All) and to where ("": the origin topic of each).
type RedeliverRequest struct {
	Group, Partition string
	Offset           *int64
	All              bool
	ToTopic          string
}

// Failed is a dead letter that was not redelivered; it is still a dead letter.
type Failed struct {
	ID, Cluster, Partition string
	Offset                 int64
	Err                    error
}

// maxFailed bounds what one call reports; the rest is counted by being dead letters still.
const maxFailed = 1000

// RedeliverDeadLetters publishes dead letters again, with their ids and bodies
// and without Sluice's other headers. What was stored is removed from the
// dead letters where all before it in its partition was stored too and the
// cluster can remove records; elsewhere it stays, and a second redelivery
// repeats it.
func (s *Service) RedeliverDeadLetters(ctx context.Context, who auth.Who, r RedeliverRequest, dry bool) (count uint64, failed []Failed, err error) {
	if r.All == (r.Offset != nil) {
		return 0, nil, fault.New(fault.InvalidArgument, "say which dead letter (partition and offset), or all of them")
	}
	if r.ToTopic != "" && s.current().Topics[r.ToTopic] == nil {
		return 0, nil, stored(store.ErrNotFound, fault.TopicNotFound, "topic", r.ToTopic)
	}
	boxes, err := s.chosen(ctx, r.Group, r.Partition, r.Offset)
	if err != nil {
		return 0, nil, err
	}
	for _, b := range boxes {
		done := map[mq.PartitionID]int64{}
		for _, sp := range b.spans {
			n, bad, upTo, err := s.redeliverSpan(ctx, &b, sp, r.ToTopic, dry)
			count += n
			failed = append(failed, bad...)
			if err != nil {
				// What was stored so far stays told: the caller must not think that nothing was.
				return count, failed, err
			}
			if upTo > sp.start && r.All {
				done[sp.id] = upTo
			}
			if len(failed) >= maxFailed {
				break
			}
		}
		if !dry && len(done) > 0 {
			s.dropLetters(ctx, &b, done)
		}
	}
	if r.Offset != nil && count == 0 && len(failed) == 0 {
		return 0, nil, missingLetter(r.Group, r.Partition, *r.Offset)
	}
	if !dry {
		s.metrics.redelivered.Add(float64(count))
		s.audit(ctx, who, "dead letters redeliver", r.Group, nil, fmt.Sprintf("%d redelivered, %d failed", count, len(failed)))
	}
	return count, failed, nil
}

// redeliverSpan publishes a range one after the other: order within a partition
// is kept. upTo is the end of what was stored without a gap.
func (s *Service) redeliverSpan(ctx context.Context, b *letters, sp span, to string, dry bool) (n uint64, failed []Failed, upTo int64, err error) {
	upTo = sp.start
	gap := false
	r := reading{d: b.d, cluster: b.cluster}
	_, err = r.each(ctx, sp, func(p mq.PartitionID, rec *mq.Record) (bool, error) {
		var err error
		if !dry {
			err = s.republishLetter(ctx, b, p, rec, to)
		}
		if err != nil {
			gap = true
			failed = append(failed, Failed{ID: header(rec, mq.HeaderID), Cluster: b.cluster, Partition: p.String(), Offset: rec.Offset, Err: err})
			return len(failed) < maxFailed && ctx.Err() == nil, nil
		}
		n++
		if !gap {
			upTo = rec.Offset + 1
		}
		return true, nil
	})
	return n, failed, upTo, err
}

// republishTimeout bounds one redelivery.
const republishTimeout = 10 * time.Second

func (s *Service) republishLetter(ctx context.Context, b *letters, from mq.PartitionID, rec *mq.Record, to string) error {
	origin := header(rec, mq.HeaderOriginTopic)
	name := origin
	if to != "" {
		name = to
	}
	if name == "" {
		return fault.New(fault.InvalidArgument, "dead letter %s/%d of group %q does not say where it came from; say --to", from, rec.Offset, b.group)
	}
	_, h, d, err := s.home(name)
	if err != nil {
		return err
	}
	ps, err := d.Producer().Partitions(ctx, h.Topic)
	if err != nil {
		return brokers(err, h.Cluster, "redelivering to topic "+name)
	}
	prefer := ""
	if name == origin && header(rec, mq.HeaderOriginCluster) == h.Cluster {
		prefer = header(rec, mq.HeaderOriginPartition)
	}
	p, err := placeLetter(ps, h.Partitions, prefer, rec)
	if err != nil {
		return err
	}
	out := mq.Record{Key: rec.Key, Body: rec.Body, Tag: rec.Tag, Headers: own(rec.Headers)}
	if id := header(rec, mq.HeaderID); id != "" {
		out.Headers = append(out.Headers, mq.Header{Name: mq.HeaderID, Value: []byte(id)})
	}
	ctx, cancel := context.WithTimeout(ctx, republishTimeout)
	defer cancel()
	results := make(chan []mq.Result, 1)
	d.Producer().Produce(ctx, p, []mq.Record{out}, func(rs []mq.Result) { results <- rs })
	res := <-results // Produce calls back at ctx's end at the latest
	if err := res[0].Err; err != nil && !errors.Is(err, mq.NotDurable) {
		return brokers(err, h.Cluster, "redelivering to topic "+name)
	}
	return nil
}

// placeLetter chooses the origin's partition where it is known, else the one
// that Kafka's default gives the key.
func placeLetter(ps []mq.Partition, pinned int, prefer string, rec *mq.Record) (mq.PartitionID, error) {
	if len(ps) == 0 {
		return mq.PartitionID{}, fault.New(fault.Unavailable, "the topic has no partitions")
	}
	for i := range ps {
		if prefer != "" && ps[i].ID.String() == prefer {
			return ps[i].ID, nil
		}
	}
	n := len(ps)
	if pinned > 0 {
		n = min(n, pinned)
	}
	if rec.Key == nil {
		return ps[int(rec.Offset%int64(n))].ID, nil
	}
	return ps[int(murmur2(rec.Key)&0x7fffffff)%n].ID, nil
}

// dropLetters removes what was redelivered. A failure is logged: the letters stay, and can be purged.
func (s *Service) dropLetters(ctx context.Context, b *letters, below map[mq.PartitionID]int64) {
	caps, err := b.d.Caps(ctx)
	if err == nil && !caps.DeleteRecords {
		return
	}
	if err == nil {
		err = b.d.Admin().DeleteRecords(ctx, below)
	}
	if err != nil {
		s.log.WarnContext(ctx, "redelivered dead letters not removed", "group", b.group, "cluster", b.cluster, "err", err)
	}
}

// PurgeDeadLetters deletes a group's dead letters, as many as there are when it begins.
func (s *Service) PurgeDeadLetters(ctx context.Context, who auth.Who, group string, dry bool) (uint64, error) {
	boxes, err := s.letterBoxes(ctx, group, "")
	if err != nil {
		return 0, err
	}
	var count uint64
	for _, b := range boxes {
		below := map[mq.PartitionID]int64{}
		for _, sp := range b.spans {
			if sp.end > sp.start {
				count += uint64(sp.end - sp.start)
				below[sp.id] = sp.end
			}
		}
		if dry || len(below) == 0 {
			continue
		}
		if err := b.d.Admin().DeleteRecords(ctx, below); err != nil {
			return 0, brokers(err, b.cluster, "purging topic "+string(b.topic))
		}
	}
	if !dry {
		s.audit(ctx, who, "dead letters purge", group, nil, fmt.Sprintf("%d purged", count))
	}
	return count, nil
}

// murmur2 is the hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2).
func murmur2(b []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := 0x9747b28c ^ uint32(len(b)) //nolint:gosec // keys are far below 4 GiB
	for ; len(b) >= 4; b = b[4:] {
		k := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
