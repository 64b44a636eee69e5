package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHistogramIsOffByOneIn64AtMost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(20*time.Hour)).Draw(rt, "d"))
		got := upper(bucket(d))
		if got < d.Truncate(time.Microsecond) || float64(got) > float64(max(d, time.Microsecond))*(1+1.0/64)+float64(time.Microsecond) {
			rt.Fatalf("%s counts as %s", d, got)
		}
	})
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var h, other histogram
	if h.millis(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	for i := range 990 {
		h.add(time.Duration(i%10+1)*time.Millisecond, 1)
	}
	other.add(time.Second, 10)
	h.merge(&other)
	for q, want := range map[float64]float64{0.5: 6, 0.99: 10, 0.999: 1000} {
		if got := h.millis(q); got < want*0.98 || got > want*1.02 {
			t.Errorf("quantile %v is %v ms, want about %v", q, got, want)
		}
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	good := PublishConfig{Direct: []string{"x"}, Topic: "t", Messages: 1}
	for _, change := range []func(*PublishConfig){
		func(c *PublishConfig) { c.Topic = "" }, func(c *PublishConfig) { c.Messages = 0 }, func(c *PublishConfig) { c.Batch = 1001 },
		func(c *PublishConfig) { c.Direct = nil }, func(c *PublishConfig) { c.Rate = -1 },
	} {
		c := good
		change(&c)
		if _, err := Publish(t.Context(), c); err == nil {
			t.Errorf("%+v passed", c)
		}
	}
	if _, err := Consume(t.Context(), ConsumeConfig{Direct: []string{"x"}, Topic: "t"}); err == nil {
		t.Error("no group passed")
	}
	if _, err := Latency(t.Context(), LatencyConfig{Direct: []string{"x"}, Topic: "t", Size: 8}); err == nil {
		t.Error("a body without room for its stamp passed")
	}
}

func TestCPUOfAProcessAndOfANode(t *testing.T) {
	t.Parallel()
	if got, err := parseStat("42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0"); err != nil || got != 2 {
		t.Errorf("parseStat: %v, %v", got, err)
	}
	if _, err := ProcessCPU(os.Getpid())(); err != nil {
		t.Error(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total 12.5\n")
	}))
	t.Cleanup(srv.Close)
	if got, err := MetricsCPU(nil, srv.URL, "secret")(); err != nil || got != 12.5 {
		t.Errorf("MetricsCPU: %v, %v", got, err)
	}
	if _, err := MetricsCPU(nil, srv.URL, "")(); err == nil {
		t.Error("a refused request passed")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (sluice) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0")
	f.Add(")")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := parseStat(s); err != nil && v != 0 {
			t.Errorf("parseStat(%q) = %v with an error", s, v)
		}
	})
}
