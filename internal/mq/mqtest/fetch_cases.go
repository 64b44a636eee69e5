package mqtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

var fetchCases = []testCase{
	{"FetchKeepsItsLimits", fetchLimits},
	{"FetchReturnsARecordLargerThanItsLimit", fetchLargeRecord},
	{"FetchWaitsAtTheEnd", fetchWaits},
	{"FetchWakesOnAppend", fetchWakes},
	{"FetchEndsWithItsContext", fetchContext},
	{"FetchBeyondTheEndResets", fetchBeyondEnd},
	{"FetchBelowTheStartResets", fetchBelowStart},
	{"OffsetsEarliestAndLatest", offsetsEnds},
	{"OffsetsByTime", offsetsByTime},
}

func fetchLimits(s *suite) {
	p := s.one()
	var records []mq.Record
	for range 50 {
		records = append(records, mq.Record{Body: bytes.Repeat([]byte("x"), 1000)})
	}
	s.put(p, records...)
	for _, l := range []mq.Limits{{MaxBytes: 1 << 20, MaxRecords: 7}, {MaxBytes: 5000}, {MaxBytes: 1}} {
		l.MaxWait = time.Second
		got := 0
		for offset := int64(0); got < len(records); {
			b, err := s.d.Reader().Fetch(s.ctx, p, offset, l)
			if err != nil {
				s.Fatalf("limits %+v: %v", l, err)
			}
			if len(b.Records) == 0 {
				s.Fatalf("limits %+v: an empty answer at %d of %d", l, offset, b.HighWatermark)
			}
			if l.MaxRecords > 0 && len(b.Records) > l.MaxRecords {
				s.Fatalf("%d records, the limit is %d", len(b.Records), l.MaxRecords)
			}
			size := 0
			for i := range b.Records {
				size += len(b.Records[i].Body)
			}
			if len(b.Records) > 1 && size > l.MaxBytes {
				s.Fatalf("%d bytes in %d records, the limit is %d", size, len(b.Records), l.MaxBytes)
			}
			got, offset = got+len(b.Records), b.Next
		}
		if got != len(records) {
			s.Fatalf("limits %+v: %d records, want %d", l, got, len(records))
		}
	}
}

func fetchLargeRecord(s *suite) {
	p := s.one()
	large := mq.Record{Body: bytes.Repeat([]byte("L"), 300<<10)}
	want := []mq.Record{text("a"), large, text("b")}
	s.put(p, want...)
	var got []mq.Record
	for offset := int64(0); len(got) < len(want); {
		b, err := s.d.Reader().Fetch(s.ctx, p, offset, mq.Limits{MaxBytes: 1000, MaxWait: time.Second})
		if err != nil {
			s.Fatal(err)
		}
		if len(b.Records) == 0 {
			s.Fatalf("an empty answer at %d of %d: a reader would stand still", offset, b.HighWatermark)
		}
		got, offset = append(got, b.Records...), b.Next
	}
	s.same(got, want)
}

func fetchWaits(s *suite) {
	p := s.one()
	end := s.put(p, text("x"))[0] + 1
	const wait = 300 * time.Millisecond
	start := time.Now()
	b, err := s.d.Reader().Fetch(s.ctx, p, end, mq.Limits{MaxBytes: 1000, MaxWait: wait})
	if err != nil || len(b.Records) != 0 || b.Next != end || b.Reset != nil {
		s.Errorf("fetch at the end: %+v, %v; want nothing and next %d", b, err, end)
	}
	if took := time.Since(start); took < wait-50*time.Millisecond {
		s.Errorf("it came back after %v, should wait %v", took, wait)
	}
	if b.HighWatermark != end {
		s.Errorf("high watermark %d, want %d", b.HighWatermark, end)
	}
}

func fetchWakes(s *suite) {
	p := s.one()
	end := s.put(p, text("x"))[0] + 1
	wait := s.patience / 2
	type answer struct {
		b    mq.Batch
		err  error
		took time.Duration
	}
	got := make(chan answer, 1)
	go func() {
		start := time.Now()
		b, err := s.d.Reader().Fetch(s.ctx, p, end, mq.Limits{MaxBytes: 1000, MaxWait: wait})
		got <- answer{b, err, time.Since(start)}
	}()
	s.put(p, text("wake"))
	a := <-got
	if a.err != nil || len(a.b.Records) != 1 || string(a.b.Records[0].Body) != "wake" {
		s.Fatalf("got %+v, %v", a.b, a.err)
	}
	if a.took > wait/2 {
		s.Errorf("an append woke the fetch only after %v", a.took)
	}
}

func fetchContext(s *suite) {
	p := s.one()
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	b, err := s.d.Reader().Fetch(ctx, p, 0, mq.Limits{MaxBytes: 1000, MaxWait: s.patience})
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("fetch with an ended context: %+v, %v", b, err)
	}
	if took := time.Since(start); took > s.patience/2 {
		s.Errorf("it ended after %v", took)
	}
}

func fetchBeyondEnd(s *suite) {
	p := s.one()
	s.put(p, text("a"), text("b"))
	b, err := s.d.Reader().Fetch(s.ctx, p, 1000, mq.Limits{MaxBytes: 1000, MaxWait: time.Second})
	s.wantReset(b, err, mq.Reset{Earliest: 0})
}

func fetchBelowStart(s *suite) {
	s.need(s.caps.DeleteRecords, "deletion of records")
	p := s.one()
	s.put(p, text("0"), text("1"), text("2"), text("3"))
	if err := s.d.Admin().DeleteRecords(s.ctx, map[mq.PartitionID]int64{p: 3}); err != nil {
		s.Fatal(err)
	}
	b, err := s.d.Reader().Fetch(s.ctx, p, 1, mq.Limits{MaxBytes: 1000, MaxWait: time.Second})
	s.wantReset(b, err, mq.Reset{Earliest: 3, Lost: 2})
	s.same(s.read(s.d.Reader(), p, 3, 1), []mq.Record{text("3")})
	if o := s.put(p, text("4"))[0]; o != 4 {
		s.Errorf("the next record is at %d, want 4", o)
	}
}

// wantReset checks a reset; Lost is 0 where the backend cannot tell.
func (s *suite) wantReset(b mq.Batch, err error, want mq.Reset) {
	s.Helper()
	if err != nil || b.Reset == nil {
		s.Fatalf("out of range: %+v, %v; want a reset", b, err)
	}
	if b.Reset.Earliest != want.Earliest || b.Next != want.Earliest || len(b.Records) > 0 ||
		(b.Reset.Lost != 0 && b.Reset.Lost != want.Lost) {
		s.Errorf("out of range: %+v, reset %+v; want %+v", b, *b.Reset, want)
	}
}

func (s *suite) offset(p mq.PartitionID, at mq.Start) int64 {
	s.Helper()
	os, err := s.d.Reader().Offsets(s.ctx, []mq.PartitionID{p}, at)
	if err != nil {
		s.Fatalf("offsets at %+v: %v", at, err)
	}
	o, ok := os[p]
	if !ok {
		s.Fatalf("offsets at %+v: nothing for %s in %v", at, p, os)
	}
	return o
}

func offsetsEnds(s *suite) {
	topic := s.topic(3)
	ids := s.partitions(topic)
	for i, p := range ids[:3] {
		for range i {
			s.put(p, text("x"))
		}
	}
	for at, want := range map[mq.StartAt]func(int) int64{
		mq.Earliest: func(int) int64 { return 0 },
		mq.Latest:   func(i int) int64 { return int64(i) },
	} {
		os, err := s.d.Reader().Offsets(s.ctx, ids, mq.Start{At: at})
		if err != nil {
			s.Fatal(err)
		}
		for i, p := range ids[:3] {
			if got, ok := os[p]; !ok || got != want(i) {
				s.Errorf("at %v partition %s: %d, %v; want %d", at, p, got, ok, want(i))
			}
		}
	}
	missing := ids[0]
	missing.Index = 1000
	_, err := s.d.Reader().Offsets(s.ctx, []mq.PartitionID{missing}, mq.Start{})
	s.wantClass("offsets of an unknown partition", err, mq.NotFound)
}

func offsetsByTime(s *suite) {
	p := s.one()
	if !s.caps.TimeLookup {
		_, err := s.d.Reader().Offsets(s.ctx, []mq.PartitionID{p}, mq.Start{At: mq.AtTime, Time: time.Now()})
		s.wantClass("offsets by time on a cluster without", err, mq.Unsupported)
		return
	}
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 20 {
		s.put(p, mq.Record{Body: fmt.Appendf(nil, "%d", i), Timestamp: base.Add(time.Duration(i) * 10 * time.Second)})
	}
	for _, c := range []struct {
		after time.Duration
		want  int64
	}{{-time.Hour, 0}, {0, 0}, {1 * time.Second, 1}, {10 * time.Second, 1}, {95 * time.Second, 10}, {190 * time.Second, 19}, {191 * time.Second, 20}} {
		if got := s.offset(p, mq.Start{At: mq.AtTime, Time: base.Add(c.after)}); got != c.want {
			s.Errorf("%v after the first: offset %d, want %d", c.after, got, c.want)
		}
	}
}
