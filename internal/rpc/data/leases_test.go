package data

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func TestAcksAreAnsweredOneByOne(t *testing.T) {
	t.Parallel()
	b := start(t)
	st, _ := openConsume(t, b, &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}})
	for i := range 1_000 {
		b.consumer.add(message(i, 10))
	}
	got := 0
	for _, n := range []uint32{1, 250, 7} {
		credit(t, st, n)
		for want := got + int(n); got < want; {
			f, err := st.Recv()
			if err != nil {
				t.Fatal(err)
			}
			ms := f.GetDeliveries().GetMessages()
			if len(ms) == 0 || len(ms) > frameMessages {
				t.Fatalf("frame %v", f)
			}
			for _, m := range ms {
				if m.GetOffset() != int64(got) || string(m.GetReceipt()) != fmt.Sprintf("r-%d", got) || m.GetPublishedAtMs() != 1_500 {
					t.Fatalf("message %d is %v", got, m)
				}
				got++
			}
			if got > want {
				t.Fatalf("%d messages for %d credits", got, want)
			}
		}
	}
	// An ack's answer would come behind messages that were too many.
	if err := st.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Request: 9, Acks: []*sluicev1.Ack{
		{Receipt: []byte("r-0"), Action: sluicev1.Action_ACTION_ACCEPT},
		{Receipt: []byte("r-1")},
		{Receipt: []byte("forged"), Action: sluicev1.Action_ACTION_ACCEPT},
		{Receipt: []byte("r-2"), Action: sluicev1.Action_ACTION_REJECT, Cause: "bad"},
	}}}}); err != nil {
		t.Fatal(err)
	}
	f, err := st.Recv()
	if err != nil || f.GetAcks().GetRequest() != 9 {
		t.Fatalf("%v, %v", f, err)
	}
	var reasons []sluicev1.Reason
	for _, r := range f.GetAcks().GetResults() {
		reasons = append(reasons, r.GetError().GetReason())
	}
	if d := cmp.Diff([]sluicev1.Reason{0, sluicev1.Reason_REASON_INVALID_ARGUMENT, sluicev1.Reason_REASON_RECEIPT_INVALID, 0}, reasons); d != "" {
		t.Error(d)
	}
	if _, leased := b.consumer.counts(); leased != got-2 {
		t.Errorf("%d leased, %d delivered", leased, got)
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	eventually(t, "the session is closed", func() bool { return b.consumer.session(0).state() == "closed(true)" })
}

func TestConsumeStreamGoesAwayAndSettles(t *testing.T) {
	t.Parallel()
	b := start(t)
	st, _ := openConsume(t, b, &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}})
	b.consumer.add(message(0, 1))
	credit(t, st, 10)
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	b.server.GoAway()
	if f, err := st.Recv(); err != nil || f.GetGoAway() == nil {
		t.Fatalf("%v, %v", f, err)
	}
	b.consumer.add(message(1, 1))
	if err := st.Send(&sluicev1.ConsumeRequest{Frame: &sluicev1.ConsumeRequest_Acks{Acks: &sluicev1.ConsumeAcks{Request: 1, Acks: []*sluicev1.Ack{{Receipt: []byte("r-0"), Action: sluicev1.Action_ACTION_ACCEPT}}}}}); err != nil {
		t.Fatal(err)
	}
	if f, err := st.Recv(); err != nil || f.GetAcks().GetResults()[0].GetError() != nil {
		t.Fatalf("%v, %v", f, err)
	}
	_ = st.CloseSend()
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if queued, leased := b.consumer.counts(); queued != 1 || leased != 0 {
		t.Errorf("%d queued, %d leased after the go-away", queued, leased)
	}
}

func TestBrokenStreamKeepsLeasesAndReturnsTheUnwritten(t *testing.T) {
	t.Parallel()
	b := start(t)
	st, cancel := openConsume(t, b, &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}})
	for i := range 200 { // more than the client's flow-control window takes
		b.consumer.add(message(i, 64<<10))
	}
	credit(t, st, 10_000)
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	eventually(t, "the session is closed", func() bool { return b.consumer.session(0).state() == "closed(false)" })
	if queued, leased := b.consumer.counts(); queued+leased != 200 || leased == 0 || queued == 0 {
		t.Errorf("%d queued, %d leased", queued, leased)
	}
}

func TestConsumeStreamRefusesWrongFrames(t *testing.T) {
	t.Parallel()
	b := start(t)
	for name, frame := range map[string]*sluicev1.ConsumeRequest{
		"credit first": {Frame: &sluicev1.ConsumeRequest_Credit{Credit: 1}}, "nothing": {},
		"no group": {Frame: &sluicev1.ConsumeRequest_Open{Open: &sluicev1.Subscription{Topics: []string{"t"}}}},
		"no topic": {Frame: &sluicev1.ConsumeRequest_Open{Open: &sluicev1.Subscription{Group: "g"}}},
		"lease":    {Frame: &sluicev1.ConsumeRequest_Open{Open: &sluicev1.Subscription{Group: "g", Topics: []string{"t"}, LeaseMs: 10}}},
		"order":    {Frame: &sluicev1.ConsumeRequest_Open{Open: &sluicev1.Subscription{Group: "g", Topics: []string{"t"}, Order: 77}}},
	} {
		st, err := sluicev1.NewConsumerServiceClient(b.conn()).Consume(asApp(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(frame); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); rpc.FromStatus(err) == nil || rpc.FromStatus(err).Reason != fault.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRevokedTokenEndsConsumeStream(t *testing.T) {
	t.Parallel()
	b := start(t, func(r *rpc.Config, _ *Config, _ *Deps) { r.Recheck = 10 * time.Millisecond })
	st, _ := openConsume(t, b, &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}})
	credit(t, st, 1) // the handler waits in Next
	b.tokens.revoke()
	if _, err := st.Recv(); rpc.FromStatus(err) == nil || rpc.FromStatus(err).Reason != fault.Unauthenticated {
		t.Errorf("%v", err)
	}
}
