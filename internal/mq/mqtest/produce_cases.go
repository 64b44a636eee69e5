package mqtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-mq/sluice/internal/mq"
)

var produceCases = []testCase{
	{"PartitionsAreSortedWithReplicas", partitionsSorted},
	{"ProduceKeepsOrder", produceKeepsOrder},
	{"ProduceOfNothingIsAnswered", produceNothing},
	{"PipelinedProducesKeepOrder", pipelinedOrder},
	{"RecordsComeBackAsTheyWere", recordsComeBack},
	{"HeadersComeBackAsTheyWere", headersComeBack},
	{"TimestampsComeBack", timestampsComeBack},
	{"UnknownTopicAndPartitionAreNotFound", produceNotFound},
	{"TooLargeFailsAlone", tooLargeAlone},
	{"EndedContextSendsNothing", endedContext},
	{"CancelAnswersOnceAndTruly", cancelAnswersOnce},
	{"ConcurrentProducersShareAPartition", concurrentProducers},
}

func partitionsSorted(s *suite) {
	topic := s.topic(4)
	ps, err := s.d.Producer().Partitions(s.ctx, topic)
	if err != nil {
		s.Fatal(err)
	}
	if len(ps) < 4 {
		s.Fatalf("%d partitions, want at least 4", len(ps))
	}
	for i, p := range ps {
		if p.ID.Topic != topic {
			s.Errorf("partition of %q in a list of %q", p.ID.Topic, topic)
		}
		if len(p.Replicas) == 0 || p.Leader == "" || !p.Writable {
			s.Errorf("partition %s: %+v; want replicas, leader, writable", p.ID, p)
		}
		if i > 0 && (ps[i-1].ID.Broker > p.ID.Broker || ps[i-1].ID.Broker == p.ID.Broker && ps[i-1].ID.Index >= p.ID.Index) {
			s.Errorf("%s comes after %s", p.ID, ps[i-1].ID)
		}
	}
}

func produceKeepsOrder(s *suite) {
	p := s.one()
	var want []string
	next := int64(-1)
	for call := range 5 {
		var records []mq.Record
		for i := range 20 {
			want = append(want, fmt.Sprintf("%d/%d", call, i))
			records = append(records, text(want[len(want)-1]))
		}
		for i, o := range s.put(p, records...) {
			if next >= 0 && o != next {
				s.Fatalf("call %d record %d: offset %d, want %d", call, i, o, next)
			}
			next = o + 1
		}
	}
	for i, r := range s.read(s.d.Reader(), p, next-int64(len(want)), len(want)) {
		if string(r.Body) != want[i] {
			s.Fatalf("record %d is %q, want %q", i, r.Body, want[i])
		}
	}
}

func produceNothing(s *suite) { s.try(s.ctx, s.one()) }

func pipelinedOrder(s *suite) {
	p := s.one()
	const calls = 100
	results := make([]chan []mq.Result, calls)
	for i := range results {
		results[i] = make(chan []mq.Result, 1)
		s.d.Producer().Produce(s.ctx, p, []mq.Record{text(strconv.Itoa(i))}, func(rs []mq.Result) { results[i] <- rs })
	}
	last := int64(-1)
	for i := range results {
		r := (<-results[i])[0]
		if r.Err != nil || r.Offset <= last {
			s.Fatalf("call %d: offset %d after %d, err %v", i, r.Offset, last, r.Err)
		}
		last = r.Offset
	}
	for i, r := range s.read(s.d.Reader(), p, 0, calls) {
		if string(r.Body) != strconv.Itoa(i) {
			s.Fatalf("record %d is %q", i, r.Body)
		}
	}
}

// same compares records but for what the broker sets.
func (s *suite) same(got, want []mq.Record) {
	s.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(mq.Record{}, "Offset", "Timestamp")); diff != "" {
		s.Errorf("records (-want +got):\n%s", diff)
	}
}

func recordsComeBack(s *suite) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	want := []mq.Record{
		{Key: nil, Body: []byte("no key")},
		{Key: []byte{}, Body: []byte("empty key")},
		{Key: []byte("k"), Body: nil},
		{Key: []byte("k"), Body: []byte{}},
		{Key: nil, Body: nil},
		{Key: binary, Body: binary},
		{Key: []byte("large"), Body: bytes.Repeat(binary, 1024)},
	}
	p := s.one()
	s.put(p, want...)
	s.same(s.read(s.d.Reader(), p, 0, len(want)), want)
}

func headersComeBack(s *suite) {
	want := []mq.Record{
		{Body: []byte("none")},
		{Body: []byte("several"), Headers: []mq.Header{
			{Name: "a", Value: []byte("1")},
			{Name: "b", Value: []byte{0, 255, 10}},
			{Name: "a", Value: []byte("2")},
			{Name: "empty", Value: []byte{}},
			{Name: "Ümläut /#", Value: []byte("x")},
		}},
		{Body: []byte("tag"), Tag: "paid"},
		{Body: []byte("both"), Tag: "paid", Headers: []mq.Header{{Name: "h", Value: []byte("v")}}},
		{Body: nil, Headers: []mq.Header{{Name: "tombstone", Value: []byte("1")}}},
	}
	p := s.one()
	if s.caps.Headers {
		s.put(p, want...)
		s.same(s.read(s.d.Reader(), p, 0, len(want)), want)
		return
	}
	// What cannot be carried is refused, never dropped; the neighbours are stored.
	for i, r := range s.try(s.ctx, p, want...) {
		if carries := len(want[i].Headers) > 0 || want[i].Tag != ""; !carries && r.Err != nil {
			s.Errorf("record %d without headers: %v", i, r.Err)
		} else if carries {
			s.wantClass(fmt.Sprintf("record %d with headers on a cluster without", i), r.Err, mq.Unsupported)
		}
	}
	s.put(p, text("end"))
	s.same(s.read(s.d.Reader(), p, 0, 2), []mq.Record{want[0], text("end")})
}

func timestampsComeBack(s *suite) {
	s.need(s.caps.TimeLookup, "offsets by time")
	p := s.one()
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	before := time.Now().Add(-time.Minute)
	s.put(p, mq.Record{Body: []byte("given"), Timestamp: at}, text("chosen"))
	rs := s.read(s.d.Reader(), p, 0, 2)
	if !rs[0].Timestamp.Equal(at) {
		s.Errorf("given timestamp came back as %v, want %v", rs[0].Timestamp, at)
	}
	if rs[1].Timestamp.Before(before) || rs[1].Timestamp.After(time.Now().Add(time.Minute)) {
		s.Errorf("chosen timestamp %v is not about now", rs[1].Timestamp)
	}
}

func produceNotFound(s *suite) {
	if s.caps.CreateTopics { // else a look may make the topic
		unknown := mq.Topic(s.name())
		_, err := s.d.Producer().Partitions(s.ctx, unknown)
		s.wantClass("partitions of an unknown topic", err, mq.NotFound)
		r := s.try(s.ctx, mq.PartitionID{Topic: unknown}, text("x"))[0]
		s.wantClass("produce to an unknown topic", r.Err, mq.NotFound)
	}
	p := s.one()
	p.Index = 1000
	s.wantClass("produce to an unknown partition", s.try(s.ctx, p, text("x"))[0].Err, mq.NotFound)
	_, err := s.d.Reader().Fetch(s.ctx, p, 0, mq.Limits{MaxBytes: 1000})
	s.wantClass("fetch of an unknown partition", err, mq.NotFound)
	p.Index = -1
	s.wantClass("produce to partition -1", s.try(s.ctx, p, text("x"))[0].Err, mq.NotFound)
}

func tooLargeAlone(s *suite) {
	s.need(s.caps.MaxRecordBytes > 0, "record limit")
	p := s.one()
	huge := mq.Record{Body: make([]byte, s.caps.MaxRecordBytes+1024)}
	rs := s.try(s.ctx, p, text("before"), huge, text("after"))
	if rs[0].Err != nil || rs[2].Err != nil {
		s.Errorf("the neighbours of a record that is too large: %v, %v", rs[0].Err, rs[2].Err)
	}
	s.wantClass("a record over the limit", rs[1].Err, mq.TooLarge)
	s.same(s.read(s.d.Reader(), p, 0, 2), []mq.Record{text("before"), text("after")})
}

func endedContext(s *suite) {
	p := s.one()
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	for _, r := range s.try(ctx, p, text("a"), text("b")) {
		s.wantClass("produce with an ended context", r.Err, mq.Timeout)
	}
	s.put(p, text("end"))
	s.same(s.read(s.d.Reader(), p, 0, 1), []mq.Record{text("end")})
}

// cancelAnswersOnce cancels writes at every stage and compares the answers with the log.
func cancelAnswersOnce(s *suite) {
	p := s.one()
	const calls = 200
	var answers [calls]atomic.Int32
	var result [calls]mq.Result
	var all sync.WaitGroup
	for i := range calls {
		ctx, cancel := context.WithCancel(s.ctx)
		all.Add(1)
		s.d.Producer().Produce(ctx, p, []mq.Record{text(strconv.Itoa(i))}, func(rs []mq.Result) {
			if answers[i].Add(1) == 1 {
				result[i] = rs[0]
				all.Done()
			}
		})
		if i%3 == 0 {
			cancel()
		} else {
			s.Cleanup(cancel)
		}
	}
	all.Wait()
	end := s.put(p, text("end"))[0]
	stored := make(map[string]int64)
	for _, r := range s.read(s.d.Reader(), p, 0, int(end)+1) {
		stored[string(r.Body)] = r.Offset
	}
	for i := range calls {
		if n := answers[i].Load(); n != 1 {
			s.Errorf("call %d was answered %d times", i, n)
		}
		at, ok := stored[strconv.Itoa(i)]
		switch r := result[i]; {
		case r.Err == nil && (!ok || at != r.Offset):
			s.Errorf("call %d: acknowledged at %d, but found: %v, at %d", i, r.Offset, ok, at)
		case r.Err != nil && !mq.MaybeSent(r.Err) && ok:
			s.Errorf("call %d: %v says not sent, but it is stored at %d", i, r.Err, at)
		case r.Err != nil && i%3 != 0:
			s.Errorf("call %d was not cancelled: %v", i, r.Err)
		case r.Err != nil && !errors.Is(r.Err, mq.Timeout):
			s.Errorf("call %d was cancelled: got %v, want class %q", i, r.Err, mq.Timeout)
		}
	}
}

func concurrentProducers(s *suite) {
	p := s.one()
	const producers, calls, each = 8, 25, 4
	offsets := make([][]int64, producers)
	var all sync.WaitGroup
	for i := range producers {
		all.Go(func() {
			for c := range calls {
				var records []mq.Record
				for k := range each {
					records = append(records, text(fmt.Sprintf("%d/%d", i, c*each+k)))
				}
				done := make(chan []mq.Result, 1)
				s.d.Producer().Produce(s.ctx, p, records, func(rs []mq.Result) { done <- rs })
				for _, r := range <-done {
					if r.Err != nil {
						s.Errorf("producer %d: %v", i, r.Err)
						return
					}
					offsets[i] = append(offsets[i], r.Offset)
				}
			}
		})
	}
	all.Wait()
	if s.Failed() {
		return
	}
	log := s.read(s.d.Reader(), p, 0, producers*calls*each)
	bodies := make(map[int64]string, len(log))
	for _, r := range log {
		bodies[r.Offset] = string(r.Body)
	}
	for i, os := range offsets {
		if !slices.IsSorted(os) {
			s.Errorf("producer %d: its records are out of order", i)
		}
		for n, o := range os {
			if want := fmt.Sprintf("%d/%d", i, n); bodies[o] != want {
				s.Fatalf("offset %d holds %q, acknowledged was %q", o, bodies[o], want)
			}
		}
	}
}
