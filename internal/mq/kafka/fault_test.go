package kafka

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// breakable is a cluster of three brokers that this test may break: SLUICE_TEST_BROKERS is the folder of the scripts,
// SLUICE_TEST_KAFKA_BREAKABLE the cluster's name in them. Both are set by hand; test/fault does the like with the binary.
func breakable(t *testing.T) (addrs []string, do func(args ...string)) {
	t.Helper()
	dir, name := os.Getenv("SLUICE_TEST_BROKERS"), os.Getenv("SLUICE_TEST_KAFKA_BREAKABLE")
	if dir == "" || name == "" {
		t.Skip("set SLUICE_TEST_BROKERS and SLUICE_TEST_KAFKA_BREAKABLE")
	}
	script := filepath.Join(dir, "kafka.sh")
	out, err := exec.Command(script, "bootstrap", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), ","), func(args ...string) {
		t.Helper()
		args = append([]string{args[0], name}, args[1:]...)
		if out, err := exec.Command(script, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}

// attempt is one record as it was answered.
type attempt struct {
	body    string
	results []mq.Result // one, or the driver answered more than once
	took    time.Duration
	limit   time.Duration
}

func TestBrokenBrokersNeverMakeAnswersLie(t *testing.T) {
	addrs, do := breakable(t)
	d := openDriver(t, Config{Bootstrap: addrs})
	topic := mq.Topic("kafka-fault-" + suffix())
	if err := d.Admin().CreateTopic(t.Context(), mq.TopicSpec{Name: topic, Partitions: 6, Replicas: 3, Config: map[string]string{"min.insync.replicas": "2"}}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var mu sync.Mutex
	var all []*attempt
	var wg sync.WaitGroup
	for w := range 12 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				as := writeSome(d, mq.PartitionID{Topic: topic, Index: int32(w % 6)}, fmt.Sprintf("%d-%d", w, n), time.Duration(50+n%30*50)*time.Millisecond, &mu)
				mu.Lock()
				all = append(all, as...)
				mu.Unlock()
			}
		})
	}
	pause := func(d time.Duration) { // the faults' own length; nothing is waited for
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}
	pause(2 * time.Second)
	do("kill", "2")
	pause(6 * time.Second)
	do("up", "2")
	pause(6 * time.Second)
	do("pause", "3")
	pause(9 * time.Second)
	do("resume", "3")
	pause(3 * time.Second)
	do("pause", "1")
	pause(2 * time.Second)
	do("resume", "1")
	pause(5 * time.Second)
	close(stop)
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Error(err)
	}
	do("wait")
	judgeAttempts(t, all, addrs, topic)
}

// writeSome produces five records and waits for their results.
func writeSome(d *Driver, p mq.PartitionID, name string, limit time.Duration, mu *sync.Mutex) []*attempt {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var rs []mq.Record
	var as []*attempt
	for i := range 5 {
		as = append(as, &attempt{body: fmt.Sprintf("%s-%d", name, i), limit: limit})
		rs = append(rs, mq.Record{Key: []byte(name), Body: []byte(as[i].body)})
	}
	done := make(chan struct{}, 10)
	start := time.Now()
	d.Producer().Produce(ctx, p, rs, func(results []mq.Result) {
		mu.Lock()
		defer mu.Unlock()
		for i, r := range results {
			as[i].results = append(as[i].results, r)
			as[i].took = time.Since(start)
		}
		done <- struct{}{}
	})
	<-done
	return as
}

func judgeAttempts(t *testing.T, all []*attempt, addrs []string, topic mq.Topic) {
	t.Helper()
	times := map[string]int{}
	for i := range 6 {
		for _, body := range scan(t, addrs, mq.PartitionID{Topic: topic, Index: int32(i)}) {
			times[body]++
		}
	}
	counts := map[string]int{}
	var slowest time.Duration
	for _, a := range all {
		slowest = max(slowest, a.took-a.limit)
		if len(a.results) != 1 {
			t.Errorf("%s was answered %d times", a.body, len(a.results))
			continue
		}
		err, n := a.results[0].Err, times[a.body]
		what := "ok"
		switch {
		case err == nil && n == 0:
			t.Errorf("%s is ok and lost", a.body)
		case err == nil:
		case mq.ClassOf(err) == mq.NotDurable:
			what = "not durable"
		case mq.MaybeSent(err):
			what = fmt.Sprintf("maybe sent, stored %d times", n)
		default:
			what = "not sent: " + mq.ClassOf(err).Error()
			if n > 0 {
				t.Errorf("%s is not sent (%v) and stored", a.body, err)
			}
		}
		if n > 1 {
			t.Errorf("%s is stored %d times (%v)", a.body, n, err)
		}
		counts[what]++
	}
	if slowest > 500*time.Millisecond {
		t.Errorf("an answer came %v after its deadline", slowest)
	}
	t.Logf("%d records: %v; answered at most %v after the deadline", len(all), counts, slowest)
}
