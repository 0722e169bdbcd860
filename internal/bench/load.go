package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// Limits of what is read from a directory that may come from anywhere.
const (
	maxLine = 1 << 20
	maxFile = 64 << 20
	// A billion-line file is no result of this program.
	maxSamples = 4 << 20
	maxIndex   = 1 << 20
)

// nameRE is what names of systems, steps and series look like. System names become file names.
var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Load reads a results directory. Metrics and scores are those that were stored with it; if the
// bench that filled it was killed before it could store them, they are computed from the samples.
func Load(dir string) (*Results, error) {
	r, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("load results %s: %w", dir, err)
	}
	return r, nil
}

func load(dir string) (*Results, error) {
	samples, err := loadSamples(dir)
	if err != nil {
		return nil, err
	}
	r, err := loadSummary(dir, samples)
	if err != nil {
		return nil, err
	}
	r.Dir, r.Samples = dir, samples
	r.Probes, r.Jobs, r.Agent = map[string]json.RawMessage{}, map[string]*JobReport{}, map[string]*AgentReport{}
	for system := range r.Systems {
		if err := readOptional(filepath.Join(dir, probesDir, system+".json"), func(b []byte) error {
			if !json.Valid(b) {
				return errors.New("not JSON")
			}
			r.Probes[system] = b
			return nil
		}); err != nil {
			return nil, err
		}
		if err := readOptional(filepath.Join(dir, jobsDir, system+".json"), func(b []byte) error {
			report := new(JobReport)
			r.Jobs[system] = report
			return json.Unmarshal(b, report)
		}); err != nil {
			return nil, err
		}
		if err := readOptional(filepath.Join(dir, agentDir, system+".json"), func(b []byte) error {
			report := new(AgentReport)
			r.Agent[system] = report
			return json.Unmarshal(b, report)
		}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// loadSummary reads summary.json. Where there is none, or it was written before the end and may be
// older than the samples, it is computed from plan and samples.
func loadSummary(dir string, samples []Sample) (*Results, error) {
	var r *Results
	err := readOptional(filepath.Join(dir, summaryName), func(b []byte) (err error) {
		r, err = parseSummary(b)
		return err
	})
	if err != nil || r != nil && r.Complete {
		return r, err
	}
	err = readOptional(filepath.Join(dir, planName), func(b []byte) error {
		p, err := parsePlan(b)
		if err == nil {
			r = summarise(p, samples)
		}
		return err
	})
	if err == nil && r == nil {
		err = fmt.Errorf("neither %s nor %s: %w; `aether bench --out DIR` makes a results directory", summaryName, planName, fs.ErrNotExist)
	}
	return r, err
}

func loadSamples(dir string) ([]Sample, error) {
	f, err := os.Open(filepath.Join(dir, samplesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	samples, _, err := readSamples(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", samplesName, err)
	}
	return samples, errors.Join(err, f.Close())
}

// readSamples parses samples.jsonl and marks the interrupted ones. whole is the length of all
// complete lines: a last line without its line feed is what a killed writer has left, and is not
// read. Any other malformed line is an error.
func readSamples(r io.Reader) (samples []Sample, whole int64, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			markInterrupted(samples)
			return samples, whole, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, 0, fmt.Errorf("line %d is longer than %d bytes", n, maxLine)
		case err != nil:
			return nil, 0, err
		case len(samples) == maxSamples:
			return nil, 0, fmt.Errorf("more than %d lines", maxSamples)
		}
		var s Sample
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", n, err)
		}
		if err := s.check(); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", n, err)
		}
		samples = append(samples, s)
		whole += int64(len(line))
	}
}

func (s Sample) check() error {
	switch {
	case !nameRE.MatchString(s.System):
		return fmt.Errorf("bad system name %.80q", s.System)
	case !nameRE.MatchString(s.Step) && (s.Step != "" || s.Kind != KindDropped):
		return fmt.Errorf("bad step name %.80q", s.Step)
	case s.Round < 0 || s.Round > maxIndex || s.Attempt < 0 || s.Attempt > maxIndex:
		return fmt.Errorf("round %d, attempt %d out of range", s.Round, s.Attempt)
	case s.Kind != KindValue && s.Kind != KindFailure && s.Kind != KindDone && s.Kind != KindDropped:
		return fmt.Errorf("unknown kind %.80q", s.Kind)
	case s.Kind == KindValue && !nameRE.MatchString(s.Name):
		return fmt.Errorf("bad series name %.80q", s.Name)
	}
	return nil
}

func parseSummary(b []byte) (*Results, error) {
	r := new(Results)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Schema != Schema {
		return nil, schemaError(r.Schema)
	}
	if err := checkHead(r.Runs, r.Axes); err != nil {
		return nil, err
	}
	if r.Systems == nil {
		r.Systems = map[string]*System{}
	}
	for name, system := range r.Systems {
		if !nameRE.MatchString(name) || system == nil {
			return nil, fmt.Errorf("bad system %.80q", name)
		}
		for axis, score := range system.Axes {
			if !validAxis(axis) || !(score >= 0 && score <= 1) {
				return nil, fmt.Errorf("%s: axis %.80q has the score %v; it must be 0 to 1", name, axis, score)
			}
		}
		for metric := range system.Metrics {
			if !nameRE.MatchString(metric) {
				return nil, fmt.Errorf("%s: bad metric name %.80q", name, metric)
			}
		}
	}
	return r, nil
}

func parsePlan(b []byte) (plan, error) {
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return p, err
	}
	if p.Schema != Schema {
		return p, schemaError(p.Schema)
	}
	for name := range p.Systems {
		if !nameRE.MatchString(name) {
			return p, fmt.Errorf("bad system %.80q", name)
		}
	}
	return p, checkHead(p.Runs, p.Axes)
}

func checkHead(runs int, axes []Axis) error {
	if runs < 1 || runs > maxIndex {
		return fmt.Errorf("runs is %d; it must be 1 to %d", runs, maxIndex)
	}
	for _, axis := range axes {
		if !validAxis(axis) {
			return fmt.Errorf("unknown axis %.80q", axis)
		}
	}
	return nil
}

func schemaError(got int) error {
	return fmt.Errorf("format version %d; this aether reads version %d: use the aether that wrote it", got, Schema)
}

// readOptional hands the content of a file to parse, unless there is no such file.
func readOptional(name string, parse func([]byte) error) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
	case len(b) > maxFile:
		err = fmt.Errorf("larger than %d bytes", maxFile)
	default:
		err = parse(bytes.TrimSpace(b))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return errors.Join(err, f.Close())
}
