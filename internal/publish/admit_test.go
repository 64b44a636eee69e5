package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func headers(n int, name, value string) []Header {
	hs := make([]Header, n)
	for i := range hs {
		hs[i] = Header{Name: name, Value: []byte(value)}
	}
	return hs
}

func TestBadMessageNeverFailsItsNeighbours(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		m      Message
		reason fault.Reason // "": it is fine
	}{
		"no body":                 {Message{}, ""},
		"empty key":               {Message{Key: []byte{}}, ""},
		"trace context":           {Message{Headers: headers(1, "traceparent", "00-x")}, ""},
		"64 headers":              {Message{Headers: headers(64, "h", "v")}, ""},
		"binary header value":     {Message{Headers: headers(1, "h", "\xff\x00")}, ""},
		"id of a person":          {Message{ID: "Bestellung №7"}, ""},
		"body at the limit":       {Message{Body: make([]byte, 1<<20-512)}, ""},
		"body over the limit":     {Message{Body: make([]byte, 1<<20-511)}, fault.MessageTooLarge},
		"65 headers":              {Message{Headers: headers(65, "h", "v")}, fault.InvalidArgument},
		"10,000 headers":          {Message{Headers: headers(10_000, "h", "v")}, fault.InvalidArgument},
		"large headers":           {Message{Headers: headers(5, "h", strings.Repeat("v", 4<<10))}, fault.InvalidArgument},
		"header without a name":   {Message{Headers: headers(1, "", "v")}, fault.InvalidArgument},
		"header name not UTF-8":   {Message{Headers: headers(1, "h\xff", "v")}, fault.InvalidArgument},
		"reserved header":         {Message{Headers: headers(1, "sluice-id", "v")}, fault.ReservedHeader},
		"reserved in other case":  {Message{Headers: headers(1, "SLUICE-new", "v")}, fault.ReservedHeader},
		"tag not UTF-8":           {Message{Tag: "\xc3\x28"}, fault.InvalidArgument},
		"tag with a line break":   {Message{Tag: "a\nb"}, fault.InvalidArgument},
		"tag that means or":       {Message{Tag: "a||b"}, fault.InvalidArgument},
		"long tag":                {Message{Tag: strings.Repeat("t", 256)}, fault.InvalidArgument},
		"long id":                 {Message{ID: strings.Repeat("i", 129)}, fault.InvalidArgument},
		"id with a control":       {Message{ID: "a\x00b"}, fault.InvalidArgument},
		"id not UTF-8":            {Message{ID: "a\xffb"}, fault.InvalidArgument},
		"partition not there":     {Message{Partition: "3"}, fault.PartitionNotFound},
		"partition of other kind": {Message{Partition: "broker-1/0"}, fault.PartitionNotFound},
		"partition there":         {Message{Partition: "2"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				rs := w.publish(msg("before"), c.m, msg("after"))
				wants(t, rs[0], Stored, "")
				wants(t, rs[2], Stored, "")
				if c.reason == "" {
					wants(t, rs[1], Stored, "")
				} else {
					wants(t, rs[1], Refused, c.reason)
				}
			})
		})
	}
}

func TestRequestIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req    Request
		status Status
		reason fault.Reason
	}{
		"too many messages": {Request{Messages: make([]Message, MaxMessages+1)}, Refused, fault.InvalidArgument},
		"too many bytes":    {Request{Messages: []Message{{Body: make([]byte, 5<<20)}, {Body: make([]byte, 4<<20)}}}, Refused, fault.MessageTooLarge},
		"long time-out":     {Request{Timeout: time.Hour, Messages: make([]Message, 1)}, Refused, fault.InvalidArgument},
		"negative time-out": {Request{Timeout: -1, Messages: make([]Message, 1)}, Refused, fault.InvalidArgument},
		"unknown topic":     {Request{Topic: "nope", Messages: make([]Message, 2)}, Refused, fault.TopicNotFound},
		"odd topic":         {Request{Topic: "a/b", Messages: make([]Message, 1)}, Refused, fault.InvalidArgument},
		"topic not UTF-8":   {Request{Topic: "\xff", Messages: make([]Message, 1)}, Refused, fault.InvalidArgument},
		"long topic":        {Request{Topic: strings.Repeat("t", 250), Messages: make([]Message, 1)}, Refused, fault.InvalidArgument},
		"no home":           {Request{Topic: "homeless", Messages: make([]Message, 1)}, NotSent, fault.Unavailable},
		"no such cluster":   {Request{Topic: "elsewhere", Messages: make([]Message, 1)}, NotSent, fault.Unavailable},
		"gone from cluster": {Request{Topic: "gone", Messages: make([]Message, 1)}, Refused, fault.TopicNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.addTopic(&snapshot.Topic{Name: "homeless"})
				w.addTopic(&snapshot.Topic{Name: "elsewhere", Homes: []snapshot.Home{{Cluster: "d", Topic: "x"}}})
				w.addTopic(&snapshot.Topic{Name: "gone", Homes: []snapshot.Home{{Cluster: "c", Topic: "x"}}})
				for _, r := range w.start(&c.req).wait() {
					wants(t, r, c.status, c.reason)
				}
				if n := len(w.fake.Attempts()); n != 0 {
					t.Errorf("%d attempts", n)
				}
			})
		})
	}
}

func TestEmptyRequestIsAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		if rs := w.publish(); len(rs) != 0 {
			t.Errorf("%d results", len(rs))
		}
	})
}

func TestTopicsOwnLimitHolds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		if err := w.fake.Admin().SetTopicConfig(t.Context(), "orders-v1", map[string]string{"max.message.bytes": "2000"}); err != nil {
			t.Fatal(err)
		}
		wants(t, w.publish(Message{Body: make([]byte, 2000-512)})[0], Stored, "")
		wants(t, w.publish(Message{Body: make([]byte, 2000-511)})[0], Refused, fault.MessageTooLarge)
	})
}

func TestClusterWithoutHeadersRefusesThemAndKeepsNoID(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		rs := w.publish(Message{Key: keyOn(0), Body: []byte("a")}, Message{Key: keyOn(1), Headers: headers(1, "h", "v")}, Message{Key: keyOn(2), Tag: "t"})
		wants(t, rs[0], Stored, "")
		wants(t, rs[1], Refused, fault.Unsupported)
		wants(t, rs[2], Refused, fault.Unsupported)
		if rs[0].ID != "c/orders-v1/0/0" {
			t.Errorf("id %q", rs[0].ID)
		}
		if r := w.fake.Records(part(0))[0]; len(r.Headers) != 0 {
			t.Errorf("stored with %v", r.Headers)
		}
	}, func(_ *world, _ *Config, fc *mqtest.FakeConfig) {
		fc.Caps = &mq.Caps{MaxRecordBytes: 1 << 20, Version: "0.10"}
	})
}

func TestTopicIsMadeAtItsFirstUse(t *testing.T) {
	t.Parallel()
	auto := func(_ *world, c *Config, _ *mqtest.FakeConfig) { c.AutoCreate = true }
	bubble(t, func(t *testing.T, w *world) {
		wants(t, w.start(&Request{Topic: "new", Messages: []Message{msg("a")}}).wait()[0], Stored, "")
		wants(t, w.start(&Request{Topic: "bad name", Messages: []Message{msg("a")}}).wait()[0], Refused, fault.InvalidArgument)
		if fmt.Sprint(w.made) != "[new]" {
			t.Errorf("made %v", w.made)
		}
	}, auto)
}

func TestBytesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	small := func(_ *world, c *Config, _ *mqtest.FakeConfig) {
		c.MaxInFlightBytes, c.MaxAppInFlightBytes = 24<<20, 16<<20
	}
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		body := bytes.Repeat([]byte("x"), 1<<20-512)
		send := func(app string) call {
			msgs := make([]Message, 8)
			for i := range msgs {
				msgs[i].Body = body
			}
			c := call{w, make(chan []Result, 2)}
			w.e.Publish(t.Context(), auth.Who{App: app}, &Request{Topic: "orders", Messages: msgs}, func(rs []Result) { c.results <- rs })
			return c
		}
		a, b := send("a"), send("a")
		slow := send("a").wait()[0]
		wants(t, slow, NotSent, fault.SlowDown)
		if slow.Err != nil && slow.Err.RetryAfter <= 0 {
			t.Error("no advice when to try again")
		}
		c := send("b")
		wants(t, send("c").wait()[0], NotSent, fault.SlowDown)
		close(hold)
		synctest.Wait()
		for _, call := range []call{a, b, c, send("a")} {
			wants(t, call.wait()[0], Stored, "")
		}
	}, small)
}

func TestRatesOfTopicAndApp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.addTopic(&snapshot.Topic{Name: "slow", RateMessages: 10, Homes: []snapshot.Home{{Cluster: "c", Topic: "orders-v1"}}})
		send := func() Result {
			return w.start(&Request{Topic: "slow", Messages: make([]Message, MaxMessages)}).wait()[0]
		}
		wants(t, send(), Stored, "")
		r := send()
		wants(t, r, NotSent, fault.SlowDown)
		time.Sleep(r.Err.RetryAfter)
		wants(t, send(), Stored, "")
		wants(t, w.publish(msg("another topic"))[0], Stored, "")
	})
	bubble(t, func(t *testing.T, w *world) {
		big := []Message{{Body: make([]byte, 1<<19)}}
		for range 2 * MaxRequestBytes >> 19 {
			wants(t, w.publish(big...)[0], Stored, "")
		}
		wants(t, w.publish(big...)[0], NotSent, fault.SlowDown)
	}, func(_ *world, c *Config, _ *mqtest.FakeConfig) { c.AppRateBytes = 1000 })
}

func TestUnreachableClusterIsAskedOnceForMany(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		asked := 0
		w.fake.OnAdmin(func(call string) error {
			if call == "Partitions" {
				asked++
				return mq.Errorf(mq.Conn, "refused")
			}
			return nil
		})
		for range 10 {
			wants(t, w.publish(msg("a"))[0], NotSent, fault.Unavailable)
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		w.fake.OnAdmin(nil)
		time.Sleep(failureAge)
		wants(t, w.publish(msg("a"))[0], Stored, "")
	})
}

func TestNoPublishWaitsForARefresh(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		wants(t, w.publish(msg("a"))[0], Stored, "")
		answer := make(chan struct{})
		w.fake.OnAdmin(func(string) error {
			<-answer
			return errors.New("late")
		})
		time.Sleep(time.Minute)
		wants(t, w.publish(msg("a"))[0], Stored, "")
		close(answer)
		synctest.Wait()
		wants(t, w.publish(msg("a"))[0], Stored, "")
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{MaxInFlightBytes: 1}, {MaxAppInFlightBytes: 1}, {MaxAppInFlightBytes: 1 << 40}, {AppRateMessages: -1}, {MaxTopicLabels: -1}} {
		if err := c.Validate(); err == nil {
			t.Errorf("%+v passed", c)
		}
	}
}

func TestTopicLabelsAreBounded(t *testing.T) {
	t.Parallel()
	m := newMetrics(nil, 2)
	one := m.topic("1")
	_ = m.topic("2")
	if m.topic("3") != m.topic("4") || m.topic("1") != one || m.topic("3") == one {
		t.Error("topics beyond the bound must share one label")
	}
}

func FuzzCheckMessage(f *testing.F) {
	f.Add("id", "tag", "header", []byte("v"), []byte("k"), []byte("b"), "0")
	f.Add("", "a||b", "sluice-x", []byte(nil), []byte(nil), []byte(nil), "-1")
	f.Add("\xff", "\xff", "\xff", []byte("\xff"), []byte{}, []byte{}, "99999999999999999999")
	e := New(Config{}, Deps{Snapshot: &world{snap: &snapshot.Snapshot{}}})
	f.Cleanup(func() { _ = e.Drain(context.Background()) }) // nothing is in flight
	s := &targetState{t: &target{e: e}, caps: mq.Caps{Headers: true}, limit: 1 << 20, layout: newLayout(onBrokers(3, 3), 0)}
	f.Fuzz(func(t *testing.T, id, tag, name string, value, key, body []byte, partition string) {
		m := Message{ID: id, Tag: tag, Headers: []Header{{Name: name, Value: value}}, Key: key, Body: body, Partition: partition}
		if err := checkMessage(&m, s); err != nil {
			if err.Reason == "" || err.Text == "" {
				t.Errorf("refused without saying why: %+v", err)
			}
			return
		}
		at, _ := placed(s.layout, "p", 8, []Message{m})
		if at[0] != noSuch && (at[0] < 0 || int(at[0]) >= len(s.layout.parts)) {
			t.Errorf("placed on %d", at[0])
		}
	})
}
