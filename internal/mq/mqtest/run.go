package mqtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Option changes what Run does.
type Option func(*settings)

type settings struct {
	patience time.Duration
	replicas int
}

// Patience is the longest that a case waits for one thing to happen; 60 s unless told.
func Patience(d time.Duration) Option { return func(s *settings) { s.patience = d } }

// Replicas is how many replicas the suite's topics have; the cluster's default unless told.
func Replicas(n int) Option { return func(s *settings) { s.replicas = n } }

// Main runs a driver package's tests and fails them when goroutines are left. Use it as TestMain.
func Main(m *testing.M) { goleak.VerifyTestMain(m) }

// Run is the conformance suite. open connects a driver for one case; the case closes it. The cases run in parallel, on
// topics and groups of their own, so that open may connect to a shared cluster.
func Run(t *testing.T, open func(t *testing.T) mq.Driver, opts ...Option) {
	t.Helper()
	set := settings{patience: time.Minute}
	for _, o := range opts {
		o(&set)
	}
	for _, group := range [][]testCase{produceCases, fetchCases, groupCases, adminCases, closeCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(newSuite(t, open(t), set))
			})
		}
	}
}

type testCase struct {
	name string
	run  func(*suite)
}

// suite is what one case works with.
type suite struct {
	*testing.T
	settings
	d    mq.Driver
	caps mq.Caps
	ctx  context.Context // ends with the case's patience
}

func newSuite(t *testing.T, d mq.Driver, set settings) *suite {
	t.Helper()
	// A case does several things one after the other, each of which may take its patience.
	ctx, cancel := context.WithTimeout(context.Background(), 3*set.patience)
	s := &suite{T: t, settings: set, d: d, ctx: ctx}
	t.Cleanup(func() {
		if err := d.Close(ctx); err != nil {
			t.Errorf("close the driver: %v", err)
		}
		cancel()
	})
	caps, err := d.Caps(ctx)
	if err != nil {
		t.Fatalf("caps: %v", err)
	}
	s.caps = caps
	return s
}

// need skips the case where the cluster cannot do it; the caps' truth is a case of its own.
func (s *suite) need(able bool, what string) {
	s.Helper()
	if !able {
		s.Skipf("this cluster's caps have no %s", what)
	}
}

// name is a fresh name for a topic or a group.
func (s *suite) name() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	last := s.Name()[strings.LastIndexByte(s.Name(), '/')+1:]
	return "mqtest-" + strings.ToLower(last) + "-" + hex.EncodeToString(b[:])
}

// topic makes a topic with at least that many partitions and waits until it can be written to. Where topics cannot
// be created the first look makes it, with as many partitions as the cluster likes: such a cluster has to have enough.
func (s *suite) topic(partitions int) mq.Topic {
	s.Helper()
	topic := mq.Topic(s.name())
	if s.caps.CreateTopics {
		spec := mq.TopicSpec{Name: topic, Partitions: partitions, Replicas: s.replicas}
		if err := s.d.Admin().CreateTopic(s.ctx, spec); err != nil {
			s.Fatalf("create topic %s: %v", topic, err)
		}
		if s.caps.DeleteTopics {
			// Shared clusters should not fill up; a failure to tidy up fails nothing.
			s.Cleanup(func() { _ = s.d.Admin().DeleteTopic(s.ctx, topic) })
		}
	}
	s.await("topic "+string(topic)+" can be written to", func() error {
		ps, err := s.d.Producer().Partitions(s.ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range ps {
			if p.Leader == "" || !p.Writable {
				return errors.New("partition " + p.ID.String() + " has no leader")
			}
		}
		if len(ps) < partitions {
			if s.caps.CreateTopics || len(ps) == 0 {
				return errors.New("too few partitions so far")
			}
			s.Skipf("the cluster makes topics with %d partitions, the case needs %d", len(ps), partitions)
		}
		return nil
	})
	return topic
}

// partitions lists a topic's partitions.
func (s *suite) partitions(topic mq.Topic) []mq.PartitionID {
	s.Helper()
	ps, err := s.d.Producer().Partitions(s.ctx, topic)
	if err != nil {
		s.Fatalf("partitions of %s: %v", topic, err)
	}
	ids := make([]mq.PartitionID, len(ps))
	for i, p := range ps {
		ids[i] = p.ID
	}
	return ids
}

// one is the first partition of a new topic.
func (s *suite) one() mq.PartitionID {
	s.Helper()
	return s.partitions(s.topic(1))[0]
}

// await polls until check is content.
func (s *suite) await(what string, check func() error) {
	s.Helper()
	deadline := time.NewTimer(s.patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			s.Fatalf("%s: not within %v: %v", what, s.patience, err)
		}
	}
}

// try produces and waits for the results; it checks that done comes exactly once with a result per record.
func (s *suite) try(ctx context.Context, p mq.PartitionID, records ...mq.Record) []mq.Result {
	s.Helper()
	results := make(chan []mq.Result, 2)
	s.d.Producer().Produce(ctx, p, records, func(rs []mq.Result) { results <- rs })
	select {
	case rs := <-results:
		if len(rs) != len(records) {
			s.Fatalf("%d results for %d records", len(rs), len(records))
		}
		return rs
	case <-time.After(s.patience):
		s.Fatalf("no results from partition %s of %s within %v", p, p.Topic, s.patience)
		return nil
	}
}

// put produces, all of it has to be stored, and returns the offsets.
func (s *suite) put(p mq.PartitionID, records ...mq.Record) []int64 {
	s.Helper()
	offsets := make([]int64, len(records))
	for i, r := range s.try(s.ctx, p, records...) {
		if r.Err != nil {
			s.Fatalf("record %d for partition %s of %s: %v", i, p, p.Topic, r.Err)
		}
		offsets[i] = r.Offset
	}
	return offsets
}

type fetcher interface {
	Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error)
}

// read fetches n records from an offset on.
func (s *suite) read(from fetcher, p mq.PartitionID, offset int64, n int) []mq.Record {
	s.Helper()
	var out []mq.Record
	s.await("records", func() error {
		b, err := from.Fetch(s.ctx, p, offset, mq.Limits{MaxBytes: 1 << 20, MaxWait: time.Second})
		if err != nil {
			return err
		}
		if b.Reset != nil {
			s.Fatalf("fetch of partition %s of %s from %d: reset to %d", p, p.Topic, offset, b.Next)
		}
		for _, r := range b.Records {
			if r.Offset < offset || r.Offset >= b.Next || r.Offset >= b.HighWatermark {
				s.Fatalf("record at %d of a fetch from %d with next %d, high watermark %d", r.Offset, offset, b.Next, b.HighWatermark)
			}
		}
		out, offset = append(out, b.Records...), b.Next
		if len(out) < n {
			return errors.New("more are missing")
		}
		return nil
	})
	return out[:n]
}

// wantClass fails unless err has the class and says that nothing was sent.
func (s *suite) wantClass(what string, err error, class mq.Class) {
	s.Helper()
	if err == nil || !errors.Is(err, class) {
		s.Errorf("%s: got %v, want class %q", what, err, class)
	}
	if mq.MaybeSent(err) {
		s.Errorf("%s: %v says that it was perhaps sent", what, err)
	}
}

func text(s string) mq.Record { return mq.Record{Body: []byte(s)} }
