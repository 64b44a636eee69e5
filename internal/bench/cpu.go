package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// ProcessCPU reads the CPU seconds of a process on this machine from /proc. It
// counts in hundredths of a second.
func ProcessCPU(pid int) func() (float64, error) {
	return func() (float64, error) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		return parseStat(string(b))
	}
}

// ticks is Linux's USER_HZ, which is part of its ABI.
const ticks = 100

// parseStat adds utime and stime, fields 14 and 15. The name in field 2 may hold
// blanks and parentheses, so counting begins after the last one.
func parseStat(stat string) (float64, error) {
	_, after, ok := strings.CutLast(stat, ")")
	if !ok {
		return 0, errors.New("parse /proc/PID/stat: no process name")
	}
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0, fmt.Errorf("parse /proc/PID/stat: %d fields", len(f))
	}
	user, errU := strconv.ParseInt(f[11], 10, 64)
	system, errS := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(errU, errS); err != nil {
		return 0, fmt.Errorf("parse /proc/PID/stat: %w", err)
	}
	return float64(user+system) / ticks, nil
}

// MetricsCPU reads process_cpu_seconds_total from a node's /metrics, so the node
// may run anywhere. token may be empty; a nil client is http.DefaultClient.
func MetricsCPU(client *http.Client, url, token string) func() (float64, error) {
	if client == nil {
		client = http.DefaultClient
	}
	return func() (float64, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", url, err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, fmt.Errorf("read the node's metrics: %w", err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("read %s: %s", url, res.Status)
		}
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "process_cpu_seconds_total "); ok {
				return strconv.ParseFloat(v, 64)
			}
		}
		if err := lines.Err(); err != nil {
			return 0, fmt.Errorf("read %s: %w", url, err)
		}
		return 0, fmt.Errorf("%s has no process_cpu_seconds_total", url)
	}
}
