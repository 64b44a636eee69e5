package control

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// Message is a message as it stands in a topic.
type Message struct {
	ID        string
	Topic     string // logical
	Cluster   string
	Partition string
	Offset    int64
	Attempt   int
	Record    mq.Record // without sluice-* headers
}

// MessageQuery says which messages to read.
type MessageQuery struct {
	Topic     string
	Partition string // "": all
	From      string // earliest ("" too), latest (the last Count), a time, or with Partition an offset
	Count     int    // 0: 100; at most 10,000
	ID        string // only this one
	Key       []byte // only these; nil: any
	Budget    int    // how many to look at; 0: 100,000; at most 1,000,000
}

// Bounds of reading.
const (
	defaultRead   = 100
	maxRead       = 10_000
	defaultBudget = 100_000
	maxBudget     = 1_000_000
	fetchBytes    = 1 << 20
	fetchWait     = 500 * time.Millisecond
	// A partition that brings nothing in so many fetches, though its end is not reached, is given up.
	maxEmptyFetches = 10
)

// ReadMessages gives the messages of a query to yield, partition by partition,
// without a group. It reads up to the ends that the partitions had when it
// began. incomplete: the budget ended the search, or a partition did not answer
// to its end.
func (s *Service) ReadMessages(ctx context.Context, q MessageQuery, yield func(*Message) error) (incomplete bool, err error) {
	t, h, d, err := s.home(q.Topic)
	if err != nil {
		return false, err
	}
	if q.Count == 0 {
		q.Count = defaultRead
	}
	if q.Budget == 0 {
		q.Budget = defaultBudget
	}
	if q.Count < 0 || q.Count > maxRead || q.Budget < 0 || q.Budget > maxBudget {
		return false, fault.New(fault.InvalidArgument, "count %d, budget %d; choose at most %d and %d", q.Count, q.Budget, maxRead, maxBudget)
	}
	ids, err := partitions(ctx, d, h.Cluster, h.Topic, q.Partition)
	if err != nil {
		return false, err
	}
	spans, err := s.spans(ctx, d, h.Cluster, ids, &q)
	if err != nil {
		return false, err
	}
	left, budget := q.Count, q.Budget
	r := reading{d: d, cluster: h.Cluster}
	for _, span := range spans {
		whole, err := r.each(ctx, span, func(p mq.PartitionID, rec *mq.Record) (bool, error) {
			if left == 0 || budget == 0 {
				return false, nil
			}
			budget--
			m := message(t.Name, h.Cluster, p, rec)
			if q.ID != "" && m.ID != q.ID || q.Key != nil && (rec.Key == nil || !bytes.Equal(rec.Key, q.Key)) {
				return true, nil
			}
			left--
			return true, yield(m)
		})
		if err != nil {
			return false, err
		}
		if left == 0 {
			return false, nil
		}
		if !whole {
			incomplete = true
		}
		if budget == 0 {
			break
		}
	}
	return incomplete, nil
}

// span is a range of a partition.
type span struct {
	id         mq.PartitionID
	start, end int64
}

// spans resolves where a query begins and ends in each partition.
func (s *Service) spans(ctx context.Context, d mq.Driver, cluster string, ids []mq.PartitionID, q *MessageQuery) ([]span, error) {
	const doing = "reading offsets"
	starts, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Earliest})
	if err != nil {
		return nil, brokers(err, cluster, doing)
	}
	ends, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Latest})
	if err != nil {
		return nil, brokers(err, cluster, doing)
	}
	from := starts
	switch offset, bad := strconv.ParseInt(q.From, 10, 64); {
	case bad == nil:
		if q.Partition == "" {
			return nil, fault.New(fault.InvalidArgument, "offset %d without a partition; say which one", offset)
		}
		from = map[mq.PartitionID]int64{ids[0]: offset}
	case q.From == "latest":
		each := int64((q.Count + len(ids) - 1) / len(ids))
		from = map[mq.PartitionID]int64{}
		for _, id := range ids {
			from[id] = ends[id] - each
		}
	default:
		at, err := parseStart(q.From)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "from %.60q is none of earliest, latest, an offset, or a time like 2026-11-25T12:00:00Z", q.From)
		}
		if at.At == mq.AtTime {
			if from, err = d.Reader().Offsets(ctx, ids, at); err != nil {
				return nil, brokers(err, cluster, doing)
			}
		}
	}
	var list []span
	for _, id := range ids {
		list = append(list, span{id: id, start: max(from[id], starts[id]), end: ends[id]})
	}
	return list, nil
}

// partitions lists a topic's partitions, or finds the one that is named.
func partitions(ctx context.Context, d mq.Driver, cluster string, topic mq.Topic, name string) ([]mq.PartitionID, error) {
	ps, err := d.Producer().Partitions(ctx, topic)
	if err != nil {
		return nil, brokers(err, cluster, "reading topic "+string(topic))
	}
	ids := idsOf(ps)
	if name == "" {
		return ids, nil
	}
	i := slices.IndexFunc(ids, func(id mq.PartitionID) bool { return id.String() == name })
	if i < 0 {
		return nil, fault.New(fault.PartitionNotFound, "topic %q of cluster %q has no partition %.60q; it has %d", topic, cluster, name, len(ids))
	}
	return ids[i : i+1], nil
}

// reading reads ranges of a cluster's partitions.
type reading struct {
	d       mq.Driver
	cluster string
}

// each gives the records of a span to fn until it says no. whole: the span's end was reached.
func (r *reading) each(ctx context.Context, sp span, fn func(mq.PartitionID, *mq.Record) (bool, error)) (whole bool, err error) {
	empty := 0
	for at := sp.start; at < sp.end; {
		b, err := r.d.Reader().Fetch(ctx, sp.id, at, mq.Limits{MaxBytes: fetchBytes, MaxWait: fetchWait})
		if err != nil {
			return false, brokers(err, r.cluster, fmt.Sprintf("reading partition %s of %s at %d", sp.id, sp.id.Topic, at))
		}
		for i := range b.Records {
			if b.Records[i].Offset >= sp.end {
				return true, nil
			}
			if more, err := fn(sp.id, &b.Records[i]); err != nil || !more {
				return false, err
			}
		}
		if b.Next > at {
			at, empty = b.Next, 0
			continue
		}
		if empty++; empty == maxEmptyFetches {
			return false, nil
		}
	}
	return true, nil
}

// message makes what is shown of a record.
func message(topic, cluster string, p mq.PartitionID, rec *mq.Record) *Message {
	m := &Message{Topic: topic, Cluster: cluster, Partition: p.String(), Offset: rec.Offset, Record: *rec, Attempt: 1}
	m.ID = header(rec, mq.HeaderID)
	if m.ID == "" {
		m.ID = fmt.Sprintf("%s/%s/%s/%d", cluster, p.Topic, p, rec.Offset)
	}
	if n, err := strconv.Atoi(header(rec, mq.HeaderAttempt)); err == nil {
		m.Attempt = n
	}
	m.Record.Headers = own(rec.Headers)
	return m
}

// own leaves the headers that Sluice did not add.
func own(hs []mq.Header) []mq.Header {
	var list []mq.Header
	for _, h := range hs {
		if !strings.HasPrefix(h.Name, mq.HeaderPrefix) {
			list = append(list, h)
		}
	}
	return list
}

func header(rec *mq.Record, name string) string {
	for _, h := range rec.Headers {
		if h.Name == name {
			return string(h.Value)
		}
	}
	return ""
}
