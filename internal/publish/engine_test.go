package publish

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an engine over a fake cluster "c" with one topic, "orders".
type world struct {
	t      *testing.T
	fake   *mqtest.Fake
	driver mq.Driver
	snap   *snapshot.Snapshot
	made   []string // topics that the control plane was asked for
	e      *Engine
}

func (w *world) Driver(name string) (mq.Driver, error) {
	if name != "c" || w.driver == nil {
		return nil, fmt.Errorf("no cluster %q", name)
	}
	return w.driver, nil
}

func (w *world) Current() *snapshot.Snapshot { return w.snap }

func (w *world) EnsureTopic(_ context.Context, topic string) error {
	w.made = append(w.made, topic)
	w.fake.AddTopic(mq.Topic(topic), 2)
	w.addTopic(&snapshot.Topic{Name: topic, Homes: []snapshot.Home{{Cluster: "c", Topic: mq.Topic(topic)}}})
	return nil
}

// addTopic publishes a snapshot that has the topic too.
func (w *world) addTopic(t *snapshot.Topic) {
	next := &snapshot.Snapshot{Version: w.snap.Version + 1, Topics: map[string]*snapshot.Topic{}}
	maps.Copy(next.Topics, w.snap.Topics)
	next.Topics[t.Name] = t
	w.snap = next
}

type option func(*world, *Config, *mqtest.FakeConfig)

// bubble runs f over a fresh world inside of a synctest bubble: time is fake, and
// every goroutine has to end.
func bubble(t *testing.T, f func(t *testing.T, w *world), options ...option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, options...)
		f(t, w)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.e.Drain(ctx); err != nil {
			t.Error(err)
		}
		_ = w.fake.Close(ctx) // the fake's Close does not fail
		if n := w.e.limits.node.Load(); n != 0 {
			t.Errorf("%d bytes are still reserved", n)
		}
	})
}

func newWorld(t *testing.T, options ...option) *world {
	w := &world{t: t, snap: &snapshot.Snapshot{}}
	var cfg Config
	fc := mqtest.FakeConfig{}
	for _, o := range options {
		o(w, &cfg, &fc)
	}
	w.fake = mqtest.NewFake(fc)
	w.driver = w.fake
	w.fake.AddTopic("orders-v1", 3)
	w.addTopic(&snapshot.Topic{Name: "orders", Block: 8, Homes: []snapshot.Home{{Cluster: "c", Topic: "orders-v1"}}})
	w.e = New(cfg, Deps{Clusters: w, Control: w, Snapshot: w})
	return w
}

// call is a publish under way.
type call struct {
	w       *world
	results chan []Result
}

func (w *world) start(req *Request) call { return w.startCtx(w.t.Context(), req) }

func (w *world) startCtx(ctx context.Context, req *Request) call {
	if req.Topic == "" {
		req.Topic = "orders"
	}
	c := call{w, make(chan []Result, 2)} // room for a second call of done, which would be a mistake
	w.e.Publish(ctx, auth.Who{App: "app"}, req, func(rs []Result) { c.results <- rs })
	return c
}

func (c call) wait() []Result {
	c.w.t.Helper()
	rs := <-c.results
	if len(c.results) > 0 {
		c.w.t.Error("done was called twice")
	}
	return rs
}

// pending tells whether done was not called yet, once all is quiet.
func (c call) pending() bool {
	synctest.Wait()
	return len(c.results) == 0
}

func (w *world) publish(msgs ...Message) []Result {
	w.t.Helper()
	return w.start(&Request{Messages: msgs}).wait()
}

// wants checks a result's status and reason ("": no error).
func wants(t *testing.T, r Result, s Status, reason fault.Reason) {
	t.Helper()
	var got fault.Reason
	if r.Err != nil {
		got = r.Err.Reason
	}
	if r.Status != s || got != reason {
		t.Errorf("message %s: %s %q (%v), want %s %q", r.ID, r.Status, got, r.Err, s, reason)
	}
	if r.Err != nil && r.Err.MaybeSent != (r.Status == MaybeSent) {
		t.Errorf("message %s: %s with MaybeSent=%t", r.ID, r.Status, r.Err.MaybeSent)
	}
}

func part(i int32) mq.PartitionID { return mq.PartitionID{Topic: "orders-v1", Index: i} }

// bodies are what a partition holds.
func (w *world) bodies(i int32) []string {
	var out []string
	for _, r := range w.fake.Records(part(i)) {
		out = append(out, string(r.Body))
	}
	return out
}

// keyOn finds a key that belongs to a partition of three.
func keyOn(p int) []byte {
	for i := 0; ; i++ {
		if k := fmt.Appendf(nil, "key-%d", i); keyIndex(k, 3) == p {
			return k
		}
	}
}

func msg(body string) Message { return Message{Body: []byte(body)} }

func keyed(key []byte, seq uint64, body string) Message {
	return Message{Key: key, Sequence: seq, Body: []byte(body)}
}

// failBodies makes records with these bodies fail until tries attempts have seen them.
func failBodies(f *mqtest.Fake, class mq.Class, tries int, bodies ...string) {
	left := map[string]int{}
	for _, b := range bodies {
		left[b] = tries
	}
	f.OnProduce(func(mqtest.Attempt) mqtest.Outcome {
		return mqtest.Outcome{Each: func(_ int, r mq.Record) error {
			if left[string(r.Body)] > 0 { // one partition's goroutine at a time sees a body
				left[string(r.Body)]--
				return mq.Errorf(class, "scripted")
			}
			return nil
		}}
	})
}
