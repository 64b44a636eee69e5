package kafka

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

func suffix() string { return strings.ToLower(rand.Text()[:8]) }

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	good := Config{Bootstrap: []string{"a:9092"}}
	if err := good.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for want, c := range map[string]Config{
		"bootstrap":   {},
		"host:port":   {Bootstrap: []string{"a"}},
		"mechanism":   {Bootstrap: good.Bootstrap, SASL: SASL{Mechanism: "GSSAPI", User: "u"}},
		"user":        {Bootstrap: good.Bootstrap, SASL: SASL{Mechanism: Plain}},
		"compression": {Bootstrap: good.Bootstrap, Compression: "rar"},
		"leader wait": {Bootstrap: good.Bootstrap, LeaderWait: time.Millisecond},
		"max batch":   {Bootstrap: good.Bootstrap, MaxBatch: 1},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %q", err, want)
		}
	}
}

func TestWhatWasAppendedIsNeverCalledNotSent(t *testing.T) {
	t.Parallel()
	// The codes of DelayedProduce and of failures in the middle of an append.
	for _, code := range []int16{-1, 3, 6, 7, 9, 56, 74, 130, 999} {
		if v := judge(&kmsg.ProduceResponseTopicPartition{ErrorCode: code, BaseOffset: 7}); v != unknown {
			t.Errorf("code %d with an offset is judged %d: the leader has it in its log", code, v)
		}
	}
	for code, want := range map[int16]verdict{0: stored, 6: elsewhere, 7: unknown, -1: unknown, 10: tooLarge, 19: short, 20: degraded, 29: refused, 45: badSequence, 999: unknown} {
		if got := judge(&kmsg.ProduceResponseTopicPartition{ErrorCode: code, BaseOffset: -1}); got != want {
			t.Errorf("code %d: judged %d, want %d", code, got, want)
		}
	}
}

func TestCommitsAreSplitByBytes(t *testing.T) {
	t.Parallel()
	cs := map[mq.PartitionID]mq.Commit{}
	for i := range int32(300) {
		cs[mq.PartitionID{Topic: "t", Index: i}] = mq.Commit{Offset: 1, Map: strings.Repeat("x", 4000)}
	}
	total := 0
	for _, part := range splitCommits(cs, maxCommitBytes) {
		size := 0
		for p, c := range part {
			size += len(c.Map) + len(p.Topic) + 32
		}
		if size > maxCommitBytes {
			t.Errorf("a request of %d bytes", size)
		}
		total += len(part)
	}
	if total != len(cs) {
		t.Errorf("%d of %d positions are sent", total, len(cs))
	}
}
