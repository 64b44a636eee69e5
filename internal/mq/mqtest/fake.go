package mqtest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// FakeConfig is what a Fake starts with; the zero value is a Kafka-like cluster that can do everything.
type FakeConfig struct {
	Kind    mq.Kind          // "": mq.Kafka
	Caps    *mq.Caps         // nil: everything, 1 MiB records, 4,096 bytes of commit metadata
	Brokers []string         // nil: fake-1, fake-2, fake-3
	Now     func() time.Time // nil: time.Now, which a synctest bubble fakes
}

// Fake is a cluster in memory. Make it with NewFake; all methods may be called at once.
type Fake struct {
	kind    mq.Kind
	caps    mq.Caps
	brokers []string
	now     func() time.Time
	closing chan struct{} // closed by Close
	work    sync.WaitGroup

	mu       sync.Mutex // guards all below; never held over a wait or a call of a hook
	closed   bool
	changed  chan struct{} // closed and replaced at each change that somebody may wait for
	topics   map[mq.Topic]*fakeTopic
	made     int // topics ever made, for ids and leader placement
	groups   map[string]*fakeGroup
	attempts []Attempt
	probe    map[string]error
	hooks    hooks
}

type fakeTopic struct {
	name   mq.Topic
	id     string
	config map[string]string
	parts  []*fakePartition
}

type fakePartition struct {
	info    mq.Partition
	start   int64
	records []mq.Record
	queue   []*fakeWrite
	running bool // a goroutine works through queue
	gone    bool // its topic was deleted
}

func (p *fakePartition) end() int64 { return p.start + int64(len(p.records)) }

var _ mq.Driver = (*Fake)(nil)

// NewFake makes a cluster without topics.
func NewFake(cfg FakeConfig) *Fake {
	f := &Fake{
		kind: cfg.Kind, brokers: cfg.Brokers, now: cfg.Now,
		closing: make(chan struct{}), changed: make(chan struct{}),
		topics: make(map[mq.Topic]*fakeTopic), groups: make(map[string]*fakeGroup), probe: make(map[string]error),
	}
	if f.kind == "" {
		f.kind = mq.Kafka
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.brokers == nil {
		f.brokers = []string{"fake-1", "fake-2", "fake-3"}
	}
	f.caps = mq.Caps{
		Headers: true, Idempotent: true, CommitMetadata: 4096, NativeGroups: true, FencedCommits: true, CreateTopics: true,
		DeleteTopics: true, AddPartitions: true, DeleteGroups: true, TopicConfigs: true, DeleteRecords: true, TimeLookup: true, MaxRecordBytes: 1 << 20, Version: "fake",
	}
	if cfg.Caps != nil {
		f.caps = *cfg.Caps
	}
	return f
}

// Kind implements mq.Driver.
func (f *Fake) Kind() mq.Kind { return f.kind }

// Caps implements mq.Driver.
func (f *Fake) Caps(ctx context.Context) (mq.Caps, error) {
	if err := f.ready(ctx); err != nil {
		return mq.Caps{}, err
	}
	return f.caps, nil
}

// Producer implements mq.Driver.
func (f *Fake) Producer() mq.Producer { return fakeProducer{f} }

// Reader implements mq.Driver.
func (f *Fake) Reader() mq.Reader { return fakeReader{f} }

// Admin implements mq.Driver.
func (f *Fake) Admin() mq.Admin { return fakeAdmin{f} }

// Probe implements mq.Driver; SetBroker scripts its answers.
func (f *Fake) Probe(ctx context.Context) []mq.BrokerHealth {
	err := f.ready(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]mq.BrokerHealth, len(f.brokers))
	for i, b := range f.brokers {
		out[i] = mq.BrokerHealth{Broker: b, Address: b + ":9092", Controller: i == 0, Latency: time.Millisecond, Err: f.probe[b]}
		if err != nil {
			out[i].Err = err
		}
	}
	return out
}

// Close implements mq.Driver: it ends all waits, fails what is in flight with class Closed and waits for its goroutines.
func (f *Fake) Close(context.Context) error {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	f.work.Wait()
	return nil
}

// ready fails once the fake is closed or ctx has ended.
func (f *Fake) ready(ctx context.Context) error {
	select {
	case <-f.closing:
		return errClosed()
	default:
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return nil
}

func errClosed() *mq.Error { return mq.Errorf(mq.Closed, "the fake cluster is closed") }

// ended is the error of a wait that ctx cut short.
func ended(ctx context.Context) *mq.Error {
	return &mq.Error{Class: mq.Timeout, Msg: "the caller stopped waiting", Cause: context.Cause(ctx)}
}

// notify wakes everybody who waits for a change. The caller holds mu.
func (f *Fake) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// partition finds a partition. The caller holds mu.
func (f *Fake) partition(id mq.PartitionID) (*fakePartition, error) {
	t := f.topics[id.Topic]
	if t == nil {
		return nil, mq.Errorf(mq.NotFound, "no topic %q", id.Topic)
	}
	if id.Broker != "" || id.Index < 0 || int(id.Index) >= len(t.parts) {
		return nil, mq.Errorf(mq.NotFound, "topic %q has no partition %s", id.Topic, id)
	}
	return t.parts[id.Index], nil
}

// addTopic makes a topic. The caller holds mu.
func (f *Fake) addTopic(name mq.Topic, partitions int, config map[string]string) {
	f.made++
	t := &fakeTopic{name: name, id: fmt.Sprintf("id-%d", f.made), config: config}
	f.topics[name] = t
	f.widen(t, partitions)
}

// widen adds partitions up to total, leaders spread over the brokers, and tells the groups. The caller holds mu.
func (f *Fake) widen(t *fakeTopic, total int) {
	for i := len(t.parts); i < total; i++ {
		var replicas []string
		for j := range f.brokers {
			replicas = append(replicas, f.brokers[(i+j)%len(f.brokers)])
		}
		t.parts = append(t.parts, &fakePartition{info: mq.Partition{
			ID:       mq.PartitionID{Topic: t.name, Index: int32(i)},
			Replicas: replicas, InSync: replicas, Leader: replicas[0], Writable: true,
		}})
	}
	f.shareTopic(t.name)
	f.notify()
}

// ids lists a topic's partitions, none for an unknown one. The caller holds mu.
func (f *Fake) ids(topic mq.Topic) []mq.PartitionID {
	t := f.topics[topic]
	if t == nil {
		return nil
	}
	ids := make([]mq.PartitionID, len(t.parts))
	for i, p := range t.parts {
		ids[i] = p.info.ID
	}
	return ids
}
