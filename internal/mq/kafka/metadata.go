package kafka

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	metaFresh = 5 * time.Second        // older: refreshed in the background by whoever asks
	metaStale = 30 * time.Second       // older: waited for
	metaGap   = 100 * time.Millisecond // between two refreshes that somebody forced
)

// topicMeta is one topic at one moment; never changed after it was stored.
type topicMeta struct {
	id         [16]byte // zero where the cluster has no topic ids
	partitions []mq.Partition
	leaders    []int32 // by index in partitions; -1: none
	err        *mq.Error
	at         time.Time
}

// leader of a partition, -1 while it has none, or where the partition does not exist.
func (t *topicMeta) leader(index int32) int32 {
	if int(index) < len(t.leaders) && index >= 0 {
		return t.leaders[index]
	}
	return -1
}

func (t *topicMeta) has(index int32) bool { return index >= 0 && int(index) < len(t.partitions) }

// metadata caches topics. One request at a time serves all who wait; a topic nobody asked for is not refreshed.
type metadata struct {
	d *Driver

	mu      sync.Mutex // guards the rest
	topics  map[mq.Topic]*topicMeta
	wanted  map[mq.Topic]struct{}
	next    *refresh // collects who asks now
	running bool
	wg      sync.WaitGroup
}

// refresh is one round of asking; done is closed when its answers are stored, or err says why not.
type refresh struct {
	done chan struct{}
	err  *mq.Error
}

func newMetadata(d *Driver) *metadata {
	return &metadata{d: d, topics: map[mq.Topic]*topicMeta{}, wanted: map[mq.Topic]struct{}{}}
}

// cached is what is known now, nil for nothing. It refreshes in the background what is old.
func (m *metadata) cached(t mq.Topic) *topicMeta {
	m.mu.Lock()
	defer m.mu.Unlock()
	tm := m.topics[t]
	if tm == nil || time.Since(tm.at) > metaFresh {
		m.want(t)
	}
	return tm
}

// refresh asks for t soon, unless it was asked a moment ago. after is told when an answer, or a failure, is there.
func (m *metadata) refresh(t mq.Topic) *refresh {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.want(t)
}

// get waits for a topic that is not older than maxAge.
func (m *metadata) get(ctx context.Context, t mq.Topic, maxAge time.Duration) (*topicMeta, error) {
	if m.d.isClosed() {
		return nil, errClosed()
	}
	m.mu.Lock()
	if tm := m.topics[t]; tm != nil {
		age := time.Since(tm.at)
		limit := maxAge
		if tm.err != nil {
			limit = min(limit, time.Second)
		}
		if age <= limit {
			if age > metaFresh {
				m.want(t)
			}
			m.mu.Unlock()
			return tm, tm.asError()
		}
	}
	r := m.want(t)
	m.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, &mq.Error{Class: mq.Timeout, Msg: "topic " + string(t) + ": the cluster did not describe it in time", Cause: ctx.Err()}
	}
	if r.err != nil {
		return nil, r.err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tm := m.topics[t]
	if tm == nil {
		return nil, mq.Errorf(mq.NotFound, "topic %s does not exist", t)
	}
	return tm, tm.asError()
}

func (t *topicMeta) asError() error {
	if t.err != nil {
		return t.err
	}
	return nil
}

// forget drops a topic that was changed by this driver.
func (m *metadata) forget(t mq.Topic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.topics, t)
}

// want needs m.mu.
func (m *metadata) want(t mq.Topic) *refresh {
	m.wanted[t] = struct{}{}
	if m.next == nil {
		m.next = &refresh{done: make(chan struct{})}
	}
	r := m.next
	if !m.running {
		m.running = true
		m.wg.Go(m.run)
	}
	return r
}

func (m *metadata) run() {
	for {
		m.mu.Lock()
		if len(m.wanted) == 0 {
			m.running = false
			m.mu.Unlock()
			return
		}
		topics := m.wanted
		r := m.next
		m.wanted, m.next = map[mq.Topic]struct{}{}, nil
		m.mu.Unlock()

		found, err := m.ask(topics)
		m.mu.Lock()
		if err != nil {
			r.err = err
		}
		var grown []mq.Topic
		for t, tm := range found {
			if old := m.topics[t]; old != nil && old.err == nil && len(old.partitions) != len(tm.partitions) {
				grown = append(grown, t)
			}
			m.topics[t] = tm
		}
		m.mu.Unlock()
		m.d.partitionsChanged(grown)
		close(r.done)
		select {
		case <-time.After(metaGap): // a storm of failing partitions asks ten times a second, not more
		case <-m.d.ctx.Done():
		}
	}
}

func (m *metadata) wait() { m.wg.Wait() }

func (m *metadata) ask(topics map[mq.Topic]struct{}) (map[mq.Topic]*topicMeta, *mq.Error) {
	d := m.d
	ctx, cancel := d.bound(context.Background(), 2*d.cfg.RequestOverhead+d.cfg.DialTimeout)
	defer cancel()
	if _, err := d.Caps(ctx); err != nil {
		return nil, transportError(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	// Brokers before 0.11 create a topic that a metadata request names; asked for all, they do not.
	if d.version(3) >= 4 {
		for t := range topics {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = new(string(t))
			req.Topics = append(req.Topics, rt)
		}
	}
	resp, err := req.RequestWith(ctx, d.data)
	if err != nil {
		return nil, transportError(err)
	}
	found := make(map[mq.Topic]*topicMeta, len(topics))
	for i := range resp.Topics {
		name := mq.Topic(value(resp.Topics[i].Topic))
		if _, ok := topics[name]; ok {
			found[name] = topicMetaOf(name, &resp.Topics[i])
		}
	}
	for t := range topics {
		if found[t] == nil {
			found[t] = &topicMeta{err: mq.Errorf(mq.NotFound, "topic %s does not exist", t), at: time.Now()}
		}
	}
	return found, nil
}

func topicMetaOf(name mq.Topic, rt *kmsg.MetadataResponseTopic) *topicMeta {
	tm := &topicMeta{id: rt.TopicID, at: time.Now()}
	switch rt.ErrorCode {
	case 0, kerr.LeaderNotAvailable.Code:
	case kerr.UnknownTopicOrPartition.Code:
		tm.err = mq.Errorf(mq.NotFound, "topic %s does not exist", name)
		tm.err.Code = int(rt.ErrorCode)
		return tm
	default:
		tm.err = codeError(rt.ErrorCode, "", nil)
		tm.err.Msg = "topic " + string(name) + ": " + tm.err.Msg
		return tm
	}
	slices.SortFunc(rt.Partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return cmp.Compare(a.Partition, b.Partition) })
	for i := range rt.Partitions {
		p := &rt.Partitions[i]
		part := mq.Partition{
			ID: mq.PartitionID{Topic: name, Index: p.Partition}, Replicas: brokerNames(p.Replicas), InSync: brokerNames(p.ISR),
		}
		leader := p.Leader
		// A code beside a leader (REPLICA_NOT_AVAILABLE of old brokers) does not keep it from serving.
		if leader < 0 {
			leader = -1
		} else {
			part.Leader = strconv.Itoa(int(leader))
			part.Writable = true
		}
		// Partitions are numbered without holes; one that is missing here is one without a leader.
		for int32(len(tm.partitions)) < p.Partition {
			tm.partitions = append(tm.partitions, mq.Partition{ID: mq.PartitionID{Topic: name, Index: int32(len(tm.partitions))}})
			tm.leaders = append(tm.leaders, -1)
		}
		tm.partitions = append(tm.partitions, part)
		tm.leaders = append(tm.leaders, leader)
	}
	if len(tm.partitions) == 0 {
		tm.err = mq.Errorf(mq.NotLeader, "topic %s has no partitions yet", name)
	}
	return tm
}

func brokerNames(ids []int32) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = strconv.Itoa(int(id))
	}
	return names
}

func topicIDString(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}
