// Copyright (C) 2026 The anople_anomalib authors
// SPDX-License-Identifier: Apache-2.0
//
// Judges images by an exported model, as anople_anomalib/deployment/exported.py does: judge MODEL IMAGE...
// The model is an .xml (OpenVINO) or an .onnx file of `anople export`, with its .json beside it. The graph resizes,
// normalizes and judges: it takes the image's own pixels in [0, 1]. Exit code: 3 if an image has no verdict.
// Unlike the runtime in Python, this compares no checksums of the model's files, does not turn images by EXIF data, and
// reads 8 bits a channel alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>

#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

using nlohmann::json;

// An image as a tensor of shape (1, 3, H, W), RGB in [0, 1].
ov::Tensor read_image(const std::string& file) {
    if (stbi_is_16_bit(file.c_str())) throw std::runtime_error("it has more than 8 bits per channel");
    int width = 0, height = 0, channels = 0;
    const std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> pixels(
        stbi_load(file.c_str(), &width, &height, &channels, 3), stbi_image_free);
    if (!pixels) throw std::runtime_error(stbi_failure_reason());
    const size_t area = size_t(width) * size_t(height);
    ov::Tensor image(ov::element::f32, {1, 3, size_t(height), size_t(width)});
    float* values = image.data<float>();
    for (size_t place = 0; place < area; ++place)
        for (size_t channel = 0; channel < 3; ++channel)
            values[channel * area + place] = float(pixels.get()[3 * place + channel]) * (1.0f / 255.0f);
    return image;
}

// Refuse an image of another size than the graph takes, or of another shape than its region of interest is for.
void require_size(const json& metadata, const ov::Shape& shape) {
    const double height = double(shape[2]), width = double(shape[3]);
    const json &input = metadata["input_size"], &region = metadata["roi_shape"];
    if (!input.is_null() && (input[0] != height || input[1] != width))
        throw std::runtime_error("the model takes images of height and width " + input.dump());
    constexpr double stretched = 1.05;
    if (!region.is_null()) {
        const double ratio = height * region[1].get<double>() / (width * region[0].get<double>());
        if (ratio < 1 / stretched || ratio > stretched)
            throw std::runtime_error("its region of interest is for images of height and width " + region.dump());
    }
}

// The raw score x of the graph's output, which may be x / (x + threshold).
double raw_score(const json& metadata, double score) {
    const json& threshold = metadata["thresholds"]["image"];
    if (!metadata["normalized"].get<bool>() || threshold.is_null()) return score;
    return threshold.get<double>() * score / std::max(1 - score, 1e-7);
}

// OK, NOT OK, or LOOK where the score is in the zone in which somebody has to look.
std::string verdict_of(const json& metadata, double score, bool anomalous) {
    const json& zone = metadata["look"];
    if (!zone.is_null() && zone[0].get<double>() < score && score <= zone[1].get<double>()) return "LOOK";
    return anomalous ? "NOT OK" : "OK";
}

// Print verdict, score, threshold and name of an image.
void judge(ov::InferRequest& request, const json& metadata, const std::string& file) {
    const ov::Tensor image = read_image(file);
    require_size(metadata, image.get_shape());
    request.set_input_tensor(image);
    request.infer();
    const double score = raw_score(metadata, request.get_tensor("pred_score").data<float>()[0]);
    if (!std::isfinite(score)) throw std::runtime_error("its score is no number");
    const json& threshold = metadata["limits"]["image"];
    if (threshold.is_null()) throw std::runtime_error("the model has no threshold");
    const bool anomalous = *static_cast<const std::uint8_t*>(request.get_tensor("pred_label").data()) != 0;
    const std::string verdict = verdict_of(metadata, score, anomalous);
    std::printf("%-6s %.9g (threshold %.9g)  %s\n", verdict.c_str(), score, threshold.get<double>(), file.c_str());
}

int main(int count, char** arguments) try {
    if (count < 3) throw std::runtime_error("give a model and images: judge MODEL IMAGE...");
    const std::filesystem::path model(arguments[1]);
    std::ifstream description(std::filesystem::path(model).replace_extension(".json"));
    if (!description) throw std::runtime_error("there is no .json beside the model: export it by anople export");
    const json metadata = json::parse(description);
    if (metadata.at("format") != 1) throw std::runtime_error("the model's .json is of another format: export it again");
    ov::Core core;  // in full precision, whatever the processor prefers
    auto compiled = core.compile_model(model.string(), "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = compiled.create_infer_request();
    int code = 0;
    for (int place = 2; place < count; ++place) {
        try {
            judge(request, metadata, arguments[place]);
        } catch (const std::exception& error) {
            std::printf("%-6s %s  %s\n", "ERROR", error.what(), arguments[place]);
            code = 3;
        }
    }
    return code;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
