package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	maxPartitions = 10_000
	maxNameBytes  = 249 // Kafka's limit, so that names can move there
)

// topicMeta is what is stored of a topic.
type topicMeta struct {
	ID         uint64            `json:"id"`
	Partitions int               `json:"partitions"`
	Config     map[string]string `json:"config,omitempty"`
	Created    time.Time         `json:"created"`
}

// topic is a topic in memory. It is never changed, but replaced, which keeps the partitions.
type topic struct {
	topicMeta
	name   mq.Topic
	limits limits
	parts  []*partition
}

// limits are a topic's own settings; 0: the store's.
type limits struct {
	retentionTime  time.Duration
	retentionBytes int64 // of one partition
	recordBytes    int
}

// partition is what is kept in memory of a partition.
type partition struct {
	id    mq.PartitionID
	topic uint64

	mu   sync.Mutex    // guards the rest; the committer alone changes it, and reads it without
	mark               // of what is synced
	gone bool          // deleted, or replaced with the database
	wake chan struct{} // closed at the next change; nil while nobody waits
}

// view is the state at this moment.
func (p *partition) view() mark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mark
}

// watch is the state, and a channel that is closed when it changes.
func (p *partition) watch() (m mark, gone bool, wake <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wake == nil {
		p.wake = make(chan struct{})
	}
	return p.mark, p.gone, p.wake
}

// set changes the state and wakes those who wait.
func (p *partition) set(m mark, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark, p.gone = m, gone
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
}

func newTopic(name mq.Topic, meta topicMeta, parts []*partition) (*topic, error) {
	l, err := parseConfig(meta.Config)
	if err != nil {
		return nil, err
	}
	t := &topic{topicMeta: meta, name: name, limits: l, parts: parts}
	for i := len(parts); i < meta.Partitions; i++ {
		t.parts = append(t.parts, &partition{id: mq.PartitionID{Topic: name, Index: int32(i)}, topic: meta.ID})
	}
	return t, nil
}

func (t *topic) ids() []mq.PartitionID {
	ids := make([]mq.PartitionID, len(t.parts))
	for i, p := range t.parts {
		ids[i] = p.id
	}
	return ids
}

// recordLimit is the largest record that a topic takes.
func (s *Store) recordLimit(t *topic) int {
	if n := t.limits.recordBytes; n > 0 {
		return min(n, s.cfg.MaxRecordBytes)
	}
	return s.cfg.MaxRecordBytes
}

// parseConfig takes the three settings that a topic can have, named and meant as in Kafka.
func parseConfig(config map[string]string) (limits, error) {
	var l limits
	for k, v := range config {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < -1 {
			return limits{}, mq.Errorf(mq.Invalid, "topic config %s=%.40q is no number", k, v)
		}
		switch k {
		case "retention.ms":
			l.retentionTime = time.Duration(n) * time.Millisecond
			if n == -1 || n > int64(forever/time.Millisecond) {
				l.retentionTime = forever
			}
		case "retention.bytes":
			l.retentionBytes = max(n, 0) // -1: no limit of its own
		case "max.message.bytes":
			if n < 1 {
				return limits{}, mq.Errorf(mq.Invalid, "topic config %s=%d; at least 1", k, n)
			}
			l.recordBytes = int(min(n, maxRecordBytes))
		default:
			return limits{}, mq.Errorf(mq.Unsupported, "topic config %.60q; the embedded store knows retention.ms, retention.bytes and max.message.bytes", k)
		}
	}
	return l, nil
}

const forever = 100 * 365 * 24 * time.Hour

func (s *Store) topic(name mq.Topic) (*topic, error) {
	s.topicsMu.RLock()
	defer s.topicsMu.RUnlock()
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	return nil, mq.Errorf(mq.NotFound, "no topic %q", name)
}

func (s *Store) partition(id mq.PartitionID) (*partition, *topic, error) {
	t, err := s.topic(id.Topic)
	if err != nil {
		return nil, nil, err
	}
	if id.Broker != "" || id.Index < 0 || int(id.Index) >= len(t.parts) {
		return nil, nil, notFound(id)
	}
	return t.parts[id.Index], t, nil
}

func (s *Store) allTopics() []*topic {
	s.topicsMu.RLock()
	defer s.topicsMu.RUnlock()
	ts := make([]*topic, 0, len(s.topics))
	for _, t := range s.topics {
		ts = append(ts, t)
	}
	return ts
}

// loadTopics reads the topics and, by a seek for each partition, where their logs end.
func loadTopics(db *pebble.DB) (topics map[mq.Topic]*topic, last uint64, err error) {
	topics = make(map[mq.Topic]*topic)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{topicPrefix}, UpperBound: []byte{lastTopicKey}})
	if err != nil {
		return nil, 0, err
	}
	for it.First(); it.Valid(); it.Next() {
		var meta topicMeta
		name := mq.Topic(it.Key()[1:])
		if err := json.Unmarshal(it.Value(), &meta); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("topic %q: %w", name, err), it.Close())
		}
		t, err := newTopic(name, meta, nil)
		if err != nil {
			return nil, 0, errors.Join(fmt.Errorf("topic %q: %w", name, err), it.Close())
		}
		topics[name] = t
		last = max(last, meta.ID)
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, 0, err
	}
	if n, err := getUint64(db, []byte{lastTopicKey}); err != nil {
		return nil, 0, err
	} else {
		last = max(last, n)
	}
	return topics, last, loadMarks(db, topics)
}

func loadMarks(db *pebble.DB, topics map[mq.Topic]*topic) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{batchPrefix}, UpperBound: []byte{batchPrefix + 1}})
	if err != nil {
		return err
	}
	for _, t := range topics {
		for _, p := range t.parts {
			if p.mark, err = loadMark(db, it, p); err != nil {
				return errors.Join(fmt.Errorf("topic %q partition %s: %w", t.name, p.id, err), it.Close())
			}
		}
	}
	return it.Close()
}

// loadMark joins the stored mark, written when something was deleted, with the newest batch.
func loadMark(db *pebble.DB, it *pebble.Iterator, p *partition) (mark, error) {
	var m mark
	value, closer, err := db.Get(partitionKey(p.topic, p.id.Index))
	switch {
	case err == nil:
		m, err = decodeMark(value)
		if err = errors.Join(err, closer.Close()); err != nil {
			return m, err
		}
	case !errors.Is(err, pebble.ErrNotFound):
		return m, err
	}
	first := batchKey(nil, p.topic, p.id.Index, 0)
	if !it.SeekLT(after(first[:batchKeyLen-8])) || string(it.Key()[:batchKeyLen-8]) != string(first[:batchKeyLen-8]) {
		return m, it.Error()
	}
	h, err := decodeHeader(it.Value())
	if err != nil {
		return m, err
	}
	if end := baseOf(it.Key()) + int64(h.count); end > m.end {
		m.end, m.header = end, h
	}
	return m, nil
}
